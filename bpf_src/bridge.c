// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Stage bridge: forwards by MAC address and VLAN between the ports of an instance, as net/bridge does.
//
// Two forms. Standalone (PYDP_BRIDGE_ADOPTED 0) the ports are one segment and everything is done here. Adopting (1) there is a
// kernel bridge below, which goes on to flood, to speak STP, to snoop, to own addresses: known unicast is forwarded
// here, all else is punted to it.

#define FDB_STAGE STAGE_BRIDGE
#include "lib/fdb.h"
#include "lib/fdb_learn.h"
#include "lib/fdb_control.h"

enum bridge_limit {
	BRIDGE_PORTS = 256, /* ports of an instance */
	BRIDGE_VLANS = 4096, /* VLAN ids */
};

enum bridge_port_flag {
	PORT_PRESENT = 1, /* the slot is in use */
	PORT_FORWARDING = 2, /* frames may leave by it */
	PORT_LEARNING = 4, /* sources are learned on it */
	PORT_HAIRPIN = 64, /* frames may leave by the port they came from */
	PORT_ISOLATED = 128, /* talks to ports that are not isolated only */
	PORT_PUNT = 256, /* everything that arrives on it is the kernel's */
	PORT_PEER = 512, /* a veth whose peer may be handed frames at once */
};

struct bridge_port {
	__u32 ifindex;
	__u32 max_length; /* longest frame that may leave, in bytes, a VLAN tag not counted */
	__u16 pvid; /* VLAN of untagged frames, 0 for none */
	__u16 flags; /* enum bridge_port_flag */
};

/* Who gets copies of what arrives on a port, a bit per slot: hairpin, isolation and the ports' flood flags are in it. */
struct bridge_flood {
	__u64 unicast[4]; /* frames for an address not learned */
	__u64 multicast[4];
	__u64 broadcast[4];
};

struct bridge_vlan {
	__u64 member[4]; /* bit per slot */
	__u64 untagged[4]; /* bit per slot: frames leave without the tag */
};

/* Written by Python. Index: slot. */
BPF_TABLE("array", __u32, struct bridge_port, bridge_ports, BRIDGE_PORTS);
/* Written by Python. Index: slot of the port a frame arrived on. */
BPF_TABLE("array", __u32, struct bridge_flood, bridge_floods, BRIDGE_PORTS);
/* Written by Python. Index: VLAN id. */
BPF_TABLE("array", __u32, struct bridge_vlan, bridge_vlans, BRIDGE_VLANS);
/* Written by Python: bridge_copies(), so that the loop over the ports is verified once and not in every port's program. */
BPF_PROG_ARRAY(bridge_tails, 1);

enum bridge_note {
	NOTE_SLOT = 0, /* slot the frame arrived on */
	NOTE_VID = 1, /* its VLAN */
	NOTE_LENGTH = 2, /* its length as bridge_length() has it */
	NOTE_KIND = 3, /* enum flood_kind */
};

enum flood_kind {
	FLOOD_UNICAST = 0, /* destination not learned */
	FLOOD_MULTICAST = 1, /* multicast */
	FLOOD_BROADCAST = 2, /* broadcast */
};

static __always_inline bool vlan_has(const __u64 *slots, __u32 slot)
{
	return slots[(slot >> 6) & 3] & (1ULL << (slot & 63));
}

enum bridge_group {
	BRIDGE_PROVIDER = 0xb801, /* bit N: 01:80:c2:00:00:0N passes by a bridge of service tags (BR_GROUPFWD_8021AD) */
};

/* 01:80:c2:00:00:0x, addressed to bridges themselves (IEEE 802.1Q table 8-1). The customers' ones pass by a provider's bridge; the kernel's own decides
 * about its ports. */
static __always_inline bool is_link_local(__u64 address)
{
	const bool provider = !PYDP_BRIDGE_ADOPTED && PYDP_BRIDGE_VLAN_FILTERING &&
			      PYDP_BRIDGE_TAG_PROTOCOL == ETH_P_8021AD;
	return (address & 0xf0ffffffffffULL) == 0x0000c28001ULL &&
	       !(provider && BRIDGE_PROVIDER >> (address >> 40) & 1);
}

#define MAC_PAUSE 0x010000c28001ULL /* 01:80:c2:00:00:01 */

/* Does a frame begin with a tag that counts here? One of the other protocol is payload (__allowed_ingress). */
static __always_inline bool bridge_tagged(const struct packet *packet)
{
	return packet->tags && packet->tag_protocol == bpf_htons(PYDP_BRIDGE_TAG_PROTOCOL);
}

/* The VLAN of a frame (br_allowed_ingress): that of its tag, or the port's own for frames without tag or with a priority tag. */
static __always_inline enum verdict bridge_vlan_in(const struct packet *packet, const struct bridge_port *in,
						   __u32 slot, __u32 *vid)
{
	*vid = bridge_tagged(packet) ? packet->tci & VID_MASK : 0;
	if (!*vid)
		*vid = in->pvid;
	struct bridge_vlan *vlan = bridge_vlans.lookup(vid);
	return vlan && *vid && vlan_has(vlan->member, slot) ? PASS_UNCLAIMED : DROP_VLAN_INGRESS;
}

/* May a frame leave by OUT (should_deliver, br_dev_queue_push_xmit in net/bridge/br_forward.c)? */
static __always_inline enum verdict bridge_may_leave(const struct bridge_port *in, const struct bridge_port *out,
						     __u32 length, bool same)
{
	if (same && !(out->flags & PORT_HAIRPIN))
		return DROP_SAME_PORT;
	if (!(out->flags & PORT_FORWARDING))
		return PYDP_BRIDGE_ADOPTED ? PUNT_PORT : DROP_PORT_DOWN;
	if (in->flags & out->flags & PORT_ISOLATED)
		return DROP_ISOLATED;
	if (length > out->max_length)
		return DROP_MTU;
	return FORWARD_PORT;
}

/* Give a frame with the tag TCI, or none if HAS_TAG is not set, the tag of VLAN VID or none. The priority of a tag it
 * came with is kept (br_handle_vlan). */
static __always_inline bool bridge_retag(hook_ctx *ctx, bool has_tag, __u16 tci, bool tagged, __u32 vid)
{
	const __be16 protocol = bpf_htons(PYDP_BRIDGE_TAG_PROTOCOL);
	if (!tagged)
		return has_tag ? hook_pop_tag(ctx) : true;
	if (!has_tag)
		return hook_push_tag(ctx, protocol, vid);
	__u16 wanted = (tci & ~VID_MASK) | vid;
	return tci == wanted || hook_set_tag(ctx, protocol, wanted);
}

/* Copy the frame to the ports of SLOTS; with VLAN, to those of them that want it TAGGED as said. */
static __always_inline void bridge_copy(hook_ctx *ctx, const __u64 *slots, __u32 length, const struct bridge_vlan *vlan,
					bool tagged)
{
	for (__u32 i = 0; i < PYDP_BRIDGE_SLOTS; i++) {
		__u32 slot = i, word = i >> 6;
		__u64 set = slots[word];
		if (vlan)
			set &= vlan->member[word] & (tagged ? ~vlan->untagged[word] : vlan->untagged[word]);
		if (!(set & (1ULL << (i & 63))))
			continue;
		struct bridge_port *out = bridge_ports.lookup(&slot);
		if (out && length <= out->max_length)
			hook_copy(ctx, out->ifindex);
	}
}

/* A frame for several ports or for nobody known: say what bridge_copies() needs to know. */
static __always_inline enum verdict bridge_flood(hook_ctx *ctx, struct packet *packet, __u32 slot, __u32 vid,
						 __u32 length)
{
	bool group = is_group(packet->dest);
	if (PYDP_BRIDGE_ADOPTED)
		return group ? PUNT_GROUP : PUNT_UNKNOWN;
	if (!HOOK_FLOODS)
		return PUNT_FLOOD;
	hook_note(ctx, NOTE_SLOT, slot);
	hook_note(ctx, NOTE_VID, vid);
	hook_note(ctx, NOTE_LENGTH, length);
	hook_note(ctx, NOTE_KIND,
		  !group		   ? FLOOD_UNICAST :
		  packet->dest == MAC_MASK ? FLOOD_BROADCAST :
					     FLOOD_MULTICAST);
	return FLOOD_PORTS;
}

/* Can the hook send a frame that is LENGTH long but for a tag? An MTU leaves room for one tag, which counts where it is in the frame:
 * drivers refuse what XDP redirects to them beyond that (xdp_ok_fwd_dev), and not what the stack sends. */
static __always_inline bool bridge_fits(__u32 length, bool tagged, const struct bridge_port *out)
{
	return !HOOK_TAG_IN_FRAME || length + (tagged ? 4 : 0) <= out->max_length;
}

/* A frame for the port behind WHERE. */
static __always_inline enum verdict bridge_forward(hook_ctx *ctx, struct packet *packet, const struct bridge_port *in,
						   __u32 slot, __u32 where, __u32 vid, __u32 length)
{
	__u32 number = where & FDB_SLOT_MASK;
	struct bridge_port *out = bridge_ports.lookup(&number);
	if (!out || !(out->flags & PORT_PRESENT)) /* the port is gone, its addresses not flushed yet */
		return bridge_flood(ctx, packet, slot, vid, length);
	enum verdict verdict = bridge_may_leave(in, out, length, number == slot);
	if (verdict != FORWARD_PORT)
		return verdict;
	packet->egress = out->ifindex;
	packet->peer = out->flags & PORT_PEER;
	if (!PYDP_BRIDGE_VLAN_FILTERING)
		return bridge_fits(length, packet->tags, out) ? FORWARD_PORT : PUNT_LENGTH;
	struct bridge_vlan *vlan = bridge_vlans.lookup(&vid);
	if (!vlan || !vlan_has(vlan->member, number))
		return DROP_VLAN_EGRESS;
	bool tagged = !vlan_has(vlan->untagged, number);
	if (!bridge_fits(length, tagged, out))
		return PUNT_LENGTH;
	return bridge_retag(ctx, bridge_tagged(packet), packet->tci, tagged, vid) ? FORWARD_PORT : PUNT_ERROR;
}

/* The length that counts for an MTU (is_skb_forwardable): without the outermost tag unless that is payload, and any for what is
 * cut up below. */
static __always_inline __u32 bridge_length(hook_ctx *ctx, const struct packet *packet)
{
	if (hook_is_gso(ctx))
		return 0;
	__u32 length = packet->length - (HOOK_TAG_IN_FRAME && packet->tags ? 4 : 0);
	return length + (PYDP_BRIDGE_VLAN_FILTERING && packet->tags && !bridge_tagged(packet) ? 4 : 0);
}

static __always_inline enum verdict bridge_stage(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	struct bridge_port *in = bridge_ports.lookup(&slot);
	if (!in)
		return PUNT_PORT;
	if (is_group(packet->source) || !packet->source)
		return DROP_SOURCE;
	bool link_local = is_link_local(packet->dest);
	if (packet->dest == MAC_PAUSE)
		return PUNT_LINK_LOCAL;

	__u32 vid = 0;
	if (PYDP_BRIDGE_VLAN_FILTERING) {
		enum verdict verdict = bridge_vlan_in(packet, in, slot, &vid);
		if (verdict != PASS_UNCLAIMED)
			return in->flags & PORT_PUNT  ? PUNT_PORT :
			       packet_is_left(packet) ? PUNT_COMPARE :
			       link_local	      ? PUNT_LINK_LOCAL :
							verdict;
	}
	__u32 length = bridge_length(ctx, packet);
	__u64 seed = STAGE_CONSTANT(FDB_STAGE, CONSTANT_SEED), vlan_key = (__u64)vid << 48;
	__u32 now = fdb_now();
	enum verdict learned = PASS_UNCLAIMED;
	if (in->flags & PORT_LEARNING && PYDP_FDB_AGEING)
		learned = fdb_learn(packet->source | vlan_key, seed, slot, now, PYDP_BRIDGE_ADOPTED);
	/* Also what the kernel decides about may be a station that has moved to this port. */
	if (in->flags & PORT_PUNT)
		return PUNT_PORT;
	if (packet_is_left(packet))
		return PUNT_COMPARE;
	if (link_local) /* like the kernel, learn from them all but pause frames (__br_handle_local_finish) */
		return PUNT_LINK_LOCAL;
	if (learned != PASS_UNCLAIMED)
		return learned;
	if (is_group(packet->dest))
		return bridge_flood(ctx, packet, slot, vid, length);
	__u32 where = fdb_lookup(packet->dest | vlan_key, seed, now);
	if (where & FDB_LOCAL)
		return PUNT_LOCAL;
	if (!where)
		return bridge_flood(ctx, packet, slot, vid, length);
	return bridge_forward(ctx, packet, in, slot, where, vid, length);
}

/* With VLANs, a frame leaves some ports tagged and others not: the tagged copies first. */
static __always_inline bool bridge_copy_vlan(hook_ctx *ctx, const __u64 *slots, __u32 length, __u32 vid)
{
	__be16 protocol = 0;
	__u16 tci = 0;
	bool has_tag = hook_outer_tag(ctx, &protocol, &tci) && protocol == bpf_htons(PYDP_BRIDGE_TAG_PROTOCOL);
	struct bridge_vlan *vlan = bridge_vlans.lookup(&vid);
	if (!vlan || !bridge_retag(ctx, has_tag, tci, true, vid))
		return false;
	bridge_copy(ctx, slots, length, vlan, true);
	if (!hook_pop_tag(ctx))
		return false;
	bridge_copy(ctx, slots, length, vlan, false);
	return !has_tag || hook_push_tag(ctx, protocol, tci); /* as it came, for the host */
}

/* Copy the frame to all who may have it. Broadcast and multicast also go up to the host, as they would on a bridge. */
int bridge_copies(hook_ctx *ctx)
{
	__u32 slot = hook_noted(ctx, NOTE_SLOT), kind = hook_noted(ctx, NOTE_KIND),
	      length = hook_noted(ctx, NOTE_LENGTH);
	struct bridge_flood *flood = bridge_floods.lookup(&slot);
	if (!flood)
		return hook_drop();
	const __u64 *slots = kind == FLOOD_UNICAST   ? flood->unicast :
			     kind == FLOOD_BROADCAST ? flood->broadcast :
						       flood->multicast;
	if (!PYDP_BRIDGE_VLAN_FILTERING)
		bridge_copy(ctx, slots, length, 0, false);
	else if (!bridge_copy_vlan(ctx, slots, length, hook_noted(ctx, NOTE_VID)))
		return hook_drop();
	return kind == FLOOD_UNICAST ? hook_drop() : hook_pass();
}

/* What is left to do for a verdict after it was counted. */
static __always_inline void bridge_finish(hook_ctx *ctx, enum verdict verdict)
{
	if (HOOK_FLOODS && !PYDP_BRIDGE_ADOPTED && verdict == FLOOD_PORTS)
		bridge_tails.call(ctx, 0);
}
