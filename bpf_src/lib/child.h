// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A parent device and its children, which share it without a bridge: what modes macvlan and ipvlan have in common.

enum child_limit {
	CHILD_PORTS = 256, /* ports of an instance: the parent and its children */
	CHILD_NOBODY = CHILD_PORTS, /* in the place of a slot */
};

enum child_flag {
	CHILD_PRESENT = 1, /* the slot is in use */
	CHILD_PEER = 2, /* a veth whose peer may be handed frames at once */
};

struct child_port {
	__u64 mac; /* of the child, that is of the container's end; of the parent its own */
	__u32 ifindex;
	__u32 max_length; /* longest frame that may leave, in bytes, a VLAN tag not counted */
	__u32 flags; /* enum child_flag */
	__u32 pad;
};

/* The length that counts for an MTU (is_skb_forwardable): without the outermost tag, and any for what is cut up below. */
static __always_inline __u32 child_length(hook_ctx *ctx, const struct packet *packet)
{
	if (hook_is_gso(ctx))
		return 0;
	return packet->length - (HOOK_TAG_IN_FRAME && packet->tags ? 4 : 0);
}

/* Send a frame out of a port. Drivers refuse what XDP redirects to them beyond the room that an MTU leaves for one tag, and not what the
 * stack sends (xdp_ok_fwd_dev). */
static __always_inline enum verdict child_send(hook_ctx *ctx, struct packet *packet, const struct child_port *out)
{
	__u32 length = child_length(ctx, packet);
	if (!out || !(out->flags & CHILD_PRESENT))
		return DROP_PORT_DOWN;
	if (length > out->max_length)
		return DROP_MTU;
	if (HOOK_TAG_IN_FRAME && packet->length > out->max_length)
		return PUNT_LENGTH;
	packet->egress = out->ifindex;
	packet->peer = out->flags & CHILD_PEER;
	return FORWARD_PORT;
}
