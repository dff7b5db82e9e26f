// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Stage ipvlan: many IP addresses on one device that keeps its one MAC address, as drivers/net/ipvlan does it, for containers behind ports of
// their own.
//
// What comes in by the parent for a child's IP address is sent to the child, and all else is left to the stack, so that the parent's own
// traffic goes on. What comes in by a child goes to another child, or out of the parent: to the neighbour that the child chose (type l2), or
// to the one that this host's routing chooses (l3). With l3s the stack carries packets both ways, and its netfilter sees them.

#include "ipvlan/maps.h"
#include "ipvlan/view.h"
#include "ipvlan/border.h"
#include "ipvlan/route.h"

#define IPVLAN_PAUSE 0x8808 /* ETH_P_PAUSE */

/* Is it a pause frame? The kernel sees the ethertype behind a tag that it has taken off, not in front of the others: MOST. */
static __always_inline bool ipvlan_is_pause(const struct packet *packet, const __u16 most)
{
	return packet->ethertype == bpf_htons(IPVLAN_PAUSE) && packet->tags <= most;
}

/* Send a frame to the child at SLOT. SENDER: the child it came from, 0 for the parent. HOME: the MAC address that all seem to have. */
static __always_inline enum verdict ipvlan_deliver(hook_ctx *ctx, struct packet *packet, __u32 slot,
						   const struct child_port *sender, __u64 home)
{
	struct child_port *child = child_ports.lookup(&slot);
	if (sender && PYDP_IPVLAN_FLAG == IPVLAN_PRIVATE)
		return DROP_ISOLATED;
	enum verdict verdict = child_send(ctx, packet, child);
	if (verdict != FORWARD_PORT || !child)
		return verdict;
	/* A peer that is handed a frame takes it for its own: it is to see the address of one for somebody else. */
	packet->peer = packet->peer && packet->dest == home;
	if (sender && !border_leave(ctx, packet, sender->mac, home))
		return DROP_ERROR;
	return border_enter(ctx, packet, child->mac, home) ? verdict : DROP_ERROR;
}

/* In by the parent (ipvlan_handle_frame). */
static __always_inline enum verdict ipvlan_parent(hook_ctx *ctx, struct packet *packet)
{
	const bool grouped = PYDP_IPVLAN_TYPE == IPVLAN_L2 && is_group(packet->dest);
	struct child_port *parent = child_parent();
	struct ipvlan_view view = {};
	if (!parent)
		return DROP_PORT_DOWN;
	ipvlan_read(ctx, packet, 1, &view);
	if (grouped) {
		/* One that a switch has sent back: the other children have had it. */
		if (packet->source == parent->mac && ipvlan_sender(&view) != CHILD_NOBODY)
			return PASS_UNCLAIMED;
		return ipvlan_is_pause(packet, 1) ? PASS_UNCLAIMED : child_flood(ctx, packet, CHILD_NOBODY, false);
	}
	__u32 child = ipvlan_receiver(&view);
	if (child == CHILD_NOBODY)
		return packet->dest == parent->mac ? PUNT_LOCAL : PASS_UNCLAIMED;
	if (PYDP_IPVLAN_TYPE == IPVLAN_L2)
		return ipvlan_deliver(ctx, packet, child, 0, parent->mac);
	if (view.kind == IPVLAN_ARP) /* the kernel's devices of these types do not speak it (IFF_NOARP) */
		return DROP_PROTOCOL;
	return PYDP_IPVLAN_TYPE == IPVLAN_L3S ? PUNT_ROUTE : ipvlan_deliver(ctx, packet, child, 0, parent->mac);
}

/* In by a child, type l2 (ipvlan_xmit_mode_l2). */
static __always_inline enum verdict ipvlan_bridged(hook_ctx *ctx, struct packet *packet, const struct ipvlan_view *view,
						   __u32 slot, const struct child_port *in,
						   const struct child_port *parent)
{
	enum verdict verdict;
	const bool home = PYDP_IPVLAN_FLAG != IPVLAN_VEPA && packet->dest == parent->mac;
	__u32 child = home ? ipvlan_receiver(view) : CHILD_NOBODY;
	if (child != CHILD_NOBODY)
		return ipvlan_deliver(ctx, packet, child, in, parent->mac);
	if (is_group(packet->dest)) {
		verdict = ipvlan_is_pause(packet, 0) ? DROP_PROTOCOL : child_flood(ctx, packet, slot, true);
	} else if (home && !HOOK_FLOODS) {
		return PUNT_LOCAL; /* for the tc program */
	} else {
		verdict = child_send(ctx, packet, parent);
		if (home && verdict == FORWARD_PORT) /* for the host, as if it had come in by the parent */
			packet->turn = TURN_BACK;
	}
	if (verdict != FORWARD_PORT && verdict != FLOOD_PORTS)
		return verdict;
	packet->peer = 0;
	return border_leave(ctx, packet, in->mac, parent->mac) ? verdict : DROP_ERROR;
}

/* A child that asks for a neighbour, where it is routed and has none: the answer is MAC. */
static __always_inline bool ipvlan_answers(hook_ctx *ctx, struct packet *packet, const struct child_port *in, __u64 mac)
{
	__be32 address[4] = {};
	if (packet->tags || !neighbour_asked(ctx, packet, address) || !neighbour_answer(ctx, packet, mac))
		return false;
	packet->egress = in->ifindex;
	return true;
}

/* In by a child, types l3 and l3s (ipvlan_xmit_mode_l3). */
static __always_inline enum verdict ipvlan_routed(hook_ctx *ctx, struct packet *packet, const struct ipvlan_view *view,
						  __u32 slot, const struct child_port *in,
						  const struct child_port *parent)
{
	const __u64 home = PYDP_IPVLAN_TYPE == IPVLAN_L3S ? in->own : parent->mac;
	if (ipvlan_answers(ctx, packet, in, home))
		return FORWARD_REPLY;
	__u32 child = PYDP_IPVLAN_FLAG != IPVLAN_VEPA ? ipvlan_receiver(view) : CHILD_NOBODY;
	if (child != CHILD_NOBODY)
		return ipvlan_deliver(ctx, packet, child, in, home);
	if (is_group(packet->dest))
		return DROP_GROUP;
	if (PYDP_IPVLAN_TYPE == IPVLAN_L3S && view->kind == IPVLAN_ARP) /* the answer to a question of this host */
		return PUNT_LOCAL;
	if (view->kind != IPVLAN_IPV4 && view->kind != IPVLAN_IPV6)
		return DROP_PROTOCOL;
	return PYDP_IPVLAN_TYPE == IPVLAN_L3S ? PUNT_ROUTE : ipvlan_route(ctx, packet, view, slot, parent);
}

static __always_inline enum verdict ipvlan_stage(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	if (STAGE_CONSTANT(STAGE_IPVLAN, CONSTANT_ROLE) == ROLE_PARENT)
		return ipvlan_parent(ctx, packet);
	struct child_port *in = child_ports.lookup(&slot), *parent = child_parent();
	struct ipvlan_view view = {};
	if (!in || !parent)
		return DROP_PORT_DOWN;
	ipvlan_read(ctx, packet, 0, &view);
	return PYDP_IPVLAN_TYPE == IPVLAN_L2 ? ipvlan_bridged(ctx, packet, &view, slot, in, parent) :
					       ipvlan_routed(ctx, packet, &view, slot, in, parent);
}

/* What is left to do for a verdict after it was counted. */
static __always_inline void ipvlan_finish(hook_ctx *ctx, enum verdict verdict)
{
	child_finish(ctx, verdict);
}
