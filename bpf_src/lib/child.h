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
	__u64 own; /* MAC address of the device */
	__u32 ifindex;
	__u32 max_length; /* longest frame that may leave, in bytes, a VLAN tag not counted */
	__u32 flags; /* enum child_flag */
	__u32 pad;
};

/* Written by Python. Index: slot. */
BPF_TABLE("array", __u32, struct child_port, child_ports, CHILD_PORTS);
/* Written by Python: child_copies(), so that the loop over the children is verified once and not in every port's program. */
BPF_PROG_ARRAY(child_tails, 1);

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

/* The parent; 0 if its slot is empty. */
static __always_inline struct child_port *child_parent(void)
{
	__u32 slot = PYDP_CHILD_PARENT;
	return child_ports.lookup(&slot);
}

// Copies

enum child_note {
	CHILD_EXCEPT = 0, /* slot that gets no copy */
	CHILD_ONWARD = 1, /* the frame came from a child and goes on out of the parent */
	CHILD_LENGTH = 2, /* its length as child_length() has it */
};

/* A frame for all children but EXCEPT: say what child_copies() needs to know. */
static __always_inline enum verdict child_flood(hook_ctx *ctx, const struct packet *packet, __u32 except, bool onward)
{
	if (!HOOK_FLOODS)
		return PUNT_FLOOD;
	hook_note(ctx, CHILD_EXCEPT, except);
	hook_note(ctx, CHILD_ONWARD, onward);
	hook_note(ctx, CHILD_LENGTH, child_length(ctx, packet));
	return FLOOD_PORTS;
}

/* Copy the frame to the children, then let it go its way: out of the parent, or up to the host. */
int child_copies(hook_ctx *ctx)
{
	__u32 except = hook_noted(ctx, CHILD_EXCEPT), onward = hook_noted(ctx, CHILD_ONWARD),
	      length = hook_noted(ctx, CHILD_LENGTH);
	for (__u32 i = 0; i < PYDP_CHILD_SLOTS; i++) {
		__u32 slot = i;
		struct child_port *out = child_ports.lookup(&slot);
		if (out && out->flags & CHILD_PRESENT && i != except && i != PYDP_CHILD_PARENT &&
		    length <= out->max_length)
			hook_copy(ctx, out->ifindex);
	}
	if (!onward)
		return hook_pass();
	struct child_port *out = child_parent();
	return out && length <= out->max_length ? hook_redirect(ctx, out->ifindex, false) : hook_drop();
}

/* What is left to do for a verdict after it was counted. */
static __always_inline void child_finish(hook_ctx *ctx, enum verdict verdict)
{
	if (HOOK_FLOODS && verdict == FLOOD_PORTS)
		child_tails.call(ctx, 0);
}
