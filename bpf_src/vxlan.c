// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Stage vxlan: ports of this host and VTEPs elsewhere as one learning segment per VNI (RFC 7348), as a kernel bridge with a vxlan port is.
//
// Known unicast is done here: from a port to a VTEP, from a VTEP to a port, between ports. Everything else is the kernel's, which has the
// whole of the protocol: in the standalone form a vxlan device made for it, the companion, takes what is to be copied to several VTEPs, to be
// fragmented, or has no next hop yet, with the VTEP in the tunnel metadata; and what comes in and is not plain arrives there once the stack
// is through with it. In the adopting form (PYDP_VXLAN_ADOPTED) these are the kernel's own vxlan devices and their bridges.

#include "vxlan/recent.h"

#define FDB_STAGE   STAGE_VXLAN
#define FDB_CHANGED recent_forget
#include "lib/fdb.h"
#include "lib/fdb_learn.h"
#include "lib/fdb_control.h"
#include "lib/flow.h"
#include "lib/hop.h"
#include "lib/neighbour.h"
#include "lib/outer.h"
#include "lib/plain.h"
#include "lib/table.h"
#include "lib/too_big.h"
#include "lib/tunnel.h"
#include "lib/whole.h"

#include "vxlan/maps.h"
#include "vxlan/counts.h"
#include "vxlan/again.h"
#include "vxlan/encap.h"
#include "vxlan/decap.h"

static __always_inline enum verdict vxlan_from_port(hook_ctx *ctx, const struct packet *packet, __u32 slot,
						    const struct vxlan_port *in, struct vxlan_frame *frame)
{
	if (!in)
		return PUNT_PORT;
	frame->dest = packet->dest;
	frame->source = packet->source;
	frame->length = packet->length;
	frame->tagged = HOOK_TAG_IN_FRAME && packet->tags;
	frame->segment = in->segment;
	frame->from = slot;
	frame->door = slot;
	frame->device = in->ifindex;
	frame->learning = !!(in->flags & VXLAN_LOCAL_LEARNING);
	return PASS_UNCLAIMED;
}

/* A frame for several or for nobody known: say what vxlan_copies() needs to know. */
static __always_inline enum verdict vxlan_flood(hook_ctx *ctx, const struct vxlan_frame *frame, __u64 role)
{
	bool group = is_group(frame->dest);
	if (PYDP_VXLAN_ADOPTED || role == ROLE_UNDERLAY)
		return group ? PUNT_GROUP : PUNT_UNKNOWN;
	if (!HOOK_FLOODS)
		return PUNT_FLOOD;
	hook_note(ctx, VXLAN_NOTE_DEVICE, frame->device);
	hook_note(ctx, VXLAN_NOTE_SEGMENT, frame->segment);
	hook_note(ctx, VXLAN_NOTE_LENGTH, hook_is_gso(ctx) ? 0 : frame->length);
	hook_note(ctx, VXLAN_NOTE_KEEP, group && role == ROLE_PORT);
	return FLOOD_PORTS;
}

/* A frame for the port in this slot. */
static __always_inline enum verdict vxlan_to_port(hook_ctx *ctx, struct packet *packet, const struct vxlan_frame *frame,
						  __u32 slot, __u64 role, __u64 stamp)
{
	struct vxlan_port *out = vxlan_ports.lookup(&slot);
	if (!out || !(out->flags & VXLAN_PRESENT) || out->segment != frame->segment)
		return vxlan_flood(ctx, frame, role);
	if (out->flags & VXLAN_PUNT)
		return PUNT_PORT;
	if (!hook_is_gso(ctx) && frame->length - (frame->tagged ? 4 : 0) > out->max_length)
		return DROP_MTU;
	if (HOOK_TAG_IN_FRAME && frame->length > out->max_length) /* see bridge_fits() */
		return PUNT_LENGTH;
	__be16 ethertype = packet->ethertype;
	if (role == ROLE_UNDERLAY && !vxlan_unwrap(ctx, &ethertype))
		return PUNT_PROTOCOL;
	if (VXLAN_AGAIN && role == ROLE_UNDERLAY && frame->vtep)
		vxlan_keep_port(frame->dest, frame->vtep->vni, packet->dest, stamp, out);
	packet->egress = out->ifindex;
	/* A peer is handed the frame with the protocol that the stack has for it. */
	packet->peer = out->flags & VXLAN_PEER && (role != ROLE_UNDERLAY || ethertype == bpf_htons(ETH_P_IP) ||
						   ethertype == bpf_htons(ETH_P_IPV6));
	return role == ROLE_PORT ? FORWARD_PORT : FORWARD_DECAP;
}

/* Answer for a neighbour that is known beforehand. */
static __always_inline bool vxlan_answers(hook_ctx *ctx, struct packet *packet, const struct vxlan_port *in)
{
	struct vxlan_name name = { .vni = in->segment };
	if (!neighbour_asked(ctx, packet, name.address))
		return false;
	__u64 *mac = vxlan_neighbours.lookup(&name);
	if (!mac || !neighbour_answer(ctx, packet, *mac))
		return false;
	packet->egress = in->ifindex;
	return true;
}

/* A frame that goes the long way. */
static __always_inline enum verdict vxlan_switch(hook_ctx *ctx, struct packet *packet, __u32 slot, __u64 role,
						 __u64 stamp)
{
	__u64 seed = STAGE_CONSTANT(STAGE_VXLAN, CONSTANT_SEED);
	struct vxlan_port *in = role == ROLE_PORT ? vxlan_ports.lookup(&slot) : 0;
	struct vxlan_frame frame = {};
	bool ours = true;
	enum verdict verdict = role == ROLE_UNDERLAY  ? vxlan_from_underlay(ctx, packet, slot, &frame, &ours) :
			       role == ROLE_COMPANION ? vxlan_from_companion(ctx, packet, &frame) :
							vxlan_from_port(ctx, packet, slot, in, &frame);
	if (verdict != PASS_UNCLAIMED || !ours)
		return verdict;
	if (is_group(frame.source) || !frame.source)
		return DROP_SOURCE;
	__u64 segment_key = (__u64)frame.segment << 48;
	__u32 now = fdb_now();
	bool known = !frame.learning || !PYDP_FDB_AGEING;
	if (!known)
		verdict = fdb_note(frame.source | segment_key, seed, frame.from, now, PYDP_VXLAN_ADOPTED, &known);
	if (in && in->flags & VXLAN_PUNT)
		return PUNT_PORT;
	if (PYDP_VXLAN_ADOPTED && packet_is_left(packet))
		return PUNT_COMPARE;
	if (VXLAN_AGAIN && known && verdict == PASS_UNCLAIMED)
		vxlan_keep_sender(frame.source, frame.door, stamp, frame.from & FDB_SLOT_MASK, frame.vtep);
	if (vxlan_link_local(frame.dest))
		return PUNT_LINK_LOCAL;
	if (verdict != PASS_UNCLAIMED)
		return verdict;
	if (PYDP_VXLAN_NEIGHBOUR && in && is_group(frame.dest) && vxlan_answers(ctx, packet, in))
		return FORWARD_REPLY;
	__u32 where = is_group(frame.dest) ? 0 : fdb_lookup(frame.dest | segment_key, seed, now);
	__u32 place = where & FDB_PLACE_MASK;
	if (where & FDB_LOCAL)
		return PUNT_LOCAL;
	if (role != ROLE_PORT && where & FDB_REMOTE)
		return PYDP_VXLAN_ADOPTED ? PUNT_UNKNOWN : DROP_SAME_PORT;
	if (where && place == frame.from)
		return DROP_SAME_PORT;
	if (in && where & FDB_REMOTE) {
		verdict = vxlan_encap(ctx, packet, slot, in, where & FDB_SLOT_MASK, now, stamp);
		if (verdict != PASS_UNCLAIMED)
			return verdict;
		where = 0;
	}
	verdict = where ? vxlan_to_port(ctx, packet, &frame, place, role, stamp) : vxlan_flood(ctx, &frame, role);
	/* What goes up to the companion is counted when it comes from there. */
	if (frame.vtep && (verdict == FORWARD_DECAP || verdict == FLOOD_PORTS))
		vxlan_count_received(frame.vtep, frame.from & FDB_SLOT_MASK, frame.length);
	return verdict;
}

static __always_inline enum verdict vxlan_short(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	__u64 role = STAGE_CONSTANT(STAGE_VXLAN, CONSTANT_ROLE), stamp = VXLAN_AGAIN ? recent_stamp() : 0;
	if (VXLAN_AGAIN && role == ROLE_UNDERLAY)
		return vxlan_decap_again(ctx, packet, slot, stamp);
	if (VXLAN_AGAIN && role == ROLE_PORT)
		return vxlan_encap_again(ctx, packet, slot, stamp);
	return PASS_UNCLAIMED;
}

static __always_inline enum verdict vxlan_stage(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	__u64 role = STAGE_CONSTANT(STAGE_VXLAN, CONSTANT_ROLE), stamp = VXLAN_AGAIN ? recent_stamp() : 0;
	enum verdict verdict = vxlan_switch(ctx, packet, slot, role, stamp);
	if (verdict >= CLASS_PUNT && packet->tunnel)
		vxlan_count_fate(packet->tunnel - 1, verdict);
	return verdict;
}

/* A copy for each VTEP of the segment, by way of the companion. */
static __always_inline void vxlan_copy_out(hook_ctx *ctx, const struct vxlan_segment *segment, __u32 length,
					   const struct inner *inner)
{
	struct bpf_tunnel_key key = {};
	__u32 at = segment->first, count = segment->count;
	__u32 *index = vxlan_replicas.lookup(&at);
	struct vxlan_vtep *vtep = index ? vxlan_vteps.lookup(index) : 0;
	if (!vtep)
		return;
	/* A group stands alone. What is the same for all is outside of the loop, or the verifier would follow its branches each time. */
	__u64 flags = vxlan_key(&key, vtep, inner);
	for (__u32 i = 0; i < PYDP_VXLAN_COPIES; i++) {
		at = segment->first + i;
		index = vxlan_replicas.lookup(&at);
		vtep = index ? vxlan_vteps.lookup(index) : 0;
		if (i >= count || !vtep)
			break;
		if (!vxlan_describe(ctx, &key, vtep, flags))
			continue;
		vxlan_count_sent(vtep, *index, length);
		hook_copy(ctx, PYDP_VXLAN_COMPANION);
	}
}

/* Copy the frame to all who may have it. Broadcast and multicast also go up to the host. */
int vxlan_copies(hook_ctx *ctx)
{
	__u32 from = hook_noted(ctx, VXLAN_NOTE_DEVICE), number = hook_noted(ctx, VXLAN_NOTE_SEGMENT),
	      length = hook_noted(ctx, VXLAN_NOTE_LENGTH), keep = hook_noted(ctx, VXLAN_NOTE_KEEP);
	struct vxlan_segment *segment = vxlan_segments.lookup(&number);
	if (!segment)
		return hook_drop();
	for (__u32 i = 0; i < PYDP_VXLAN_SLOTS; i++) {
		__u32 slot = i;
		if (!vxlan_has(segment->members, i))
			continue;
		struct vxlan_port *out = vxlan_ports.lookup(&slot);
		/* Not by slot: the verifier would keep in mind which of them `from` is not, and follow each way of the loop. */
		if (out && out->ifindex != from && length <= out->max_length)
			hook_copy(ctx, out->ifindex);
	}
	if (from) {
		struct packet packet = {};
		struct inner inner = {};
		if (parse_packet(ctx, &packet))
			inner_read(ctx, &packet, &inner);
		vxlan_copy_out(ctx, segment, hook_length(ctx), &inner);
	}
	return keep ? hook_pass() : hook_drop();
}

/* What is left to do for a verdict after it was counted. */
static __always_inline void vxlan_finish(hook_ctx *ctx, enum verdict verdict)
{
	if (HOOK_FLOODS && !PYDP_VXLAN_ADOPTED && verdict == FLOOD_PORTS)
		vxlan_tails.call(ctx, 0);
}
