// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Stage macvlan: several MAC addresses on one device, as drivers/net/macvlan.c does it, for containers behind ports of their own.
//
// What comes in by the parent for a child's address is sent to the child, and all else is left to the stack, so that the parent's own traffic
// goes on. What comes in by a child goes to another child (type bridge) or out of the parent. As with the kernel's device nobody
// checks a child's source addresses, and children do not reach the host by the parent's address: such frames leave for the wire.

#include "macvlan/maps.h"

#define MACVLAN_PAUSE 0x8808 /* ETH_P_PAUSE */

static __always_inline enum verdict macvlan_send(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	return child_send(ctx, packet, child_ports.lookup(&slot));
}

/* Is it a frame that is not copied (macvlan_broadcast)? The kernel sees the ethertype behind a tag that it has taken off, not in front of the
 * others: MOST. */
static __always_inline bool macvlan_is_pause(const struct packet *packet, const __u16 most)
{
	return packet->ethertype == bpf_htons(MACVLAN_PAUSE) && packet->tags <= most;
}

/* A group frame in by the parent (macvlan_handle_frame, macvlan_multicast_rx). One with a child's source was sent back by the switch. */
static __always_inline enum verdict macvlan_group_in(hook_ctx *ctx, struct packet *packet)
{
	const bool alone = PYDP_MACVLAN_TYPE == MACVLAN_PRIVATE || PYDP_MACVLAN_TYPE == MACVLAN_PASSTHRU;
	__u32 sender = macvlan_child(packet->source);
	if (sender != CHILD_NOBODY && alone)
		return macvlan_send(ctx, packet, sender);
	if (sender != CHILD_NOBODY && PYDP_MACVLAN_TYPE == MACVLAN_BRIDGE) /* the others saw it on its way out */
		return PASS_UNCLAIMED;
	if (macvlan_is_pause(packet, 1))
		return PASS_UNCLAIMED;
	return child_flood(ctx, packet, sender, false);
}

static __always_inline enum verdict macvlan_parent(hook_ctx *ctx, struct packet *packet)
{
	if (is_group(packet->dest))
		return macvlan_group_in(ctx, packet);
	if (PYDP_MACVLAN_TYPE == MACVLAN_PASSTHRU)
		return macvlan_send(ctx, packet, PYDP_MACVLAN_FIRST);
	__u32 child = macvlan_child(packet->dest);
	if (child != CHILD_NOBODY)
		return macvlan_send(ctx, packet, child);
	struct child_port *parent = child_parent();
	return parent && packet->dest == parent->mac ? PUNT_LOCAL : PASS_UNCLAIMED;
}

/* A frame in by a child (macvlan_queue_xmit). One for its own address comes back to it, as the kernel hands it to the parent first. */
static __always_inline enum verdict macvlan_stage(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	if (STAGE_CONSTANT(STAGE_MACVLAN, CONSTANT_ROLE) == ROLE_PARENT)
		return macvlan_parent(ctx, packet);
	if (PYDP_MACVLAN_TYPE != MACVLAN_BRIDGE)
		return macvlan_send(ctx, packet, PYDP_CHILD_PARENT);
	if (is_group(packet->dest) && !macvlan_is_pause(packet, 0))
		return child_flood(ctx, packet, slot, true);
	__u32 child = is_group(packet->dest) ? CHILD_NOBODY : macvlan_child(packet->dest);
	return macvlan_send(ctx, packet, child == CHILD_NOBODY ? PYDP_CHILD_PARENT : child);
}

/* What is left to do for a verdict after it was counted. */
static __always_inline void macvlan_finish(hook_ctx *ctx, enum verdict verdict)
{
	child_finish(ctx, verdict);
}
