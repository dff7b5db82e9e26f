// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Stage macvlan: several MAC addresses on one device, as drivers/net/macvlan.c does it, for containers behind ports of their own.
//
// What comes in by the parent for a child's address is sent to the child, and all else is left to the stack, so that the parent's own traffic
// goes on. What comes in by a child goes to another child (type bridge) or out of the parent. As with the kernel's device nobody
// checks a child's source addresses, and children do not reach the host by the parent's address: such frames leave for the wire.

#include "macvlan/maps.h"

#define MACVLAN_PAUSE 0x8808 /* ETH_P_PAUSE */

enum macvlan_note {
	MACVLAN_EXCEPT = 0, /* slot that gets no copy */
	MACVLAN_ONWARD = 1, /* the frame came from a child and goes on out of the parent */
	MACVLAN_LENGTH = 2, /* its length as child_length() has it */
};

static __always_inline enum verdict macvlan_send(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	return child_send(ctx, packet, macvlan_ports.lookup(&slot));
}

/* Is it a frame that is not copied (macvlan_broadcast)? The kernel sees the ethertype behind a tag that it has taken off, not in front of the
 * others: MOST. */
static __always_inline bool macvlan_is_pause(const struct packet *packet, const __u16 most)
{
	return packet->ethertype == bpf_htons(MACVLAN_PAUSE) && packet->tags <= most;
}

/* A frame for all children but EXCEPT: say what macvlan_copies() needs to know. */
static __always_inline enum verdict macvlan_flood(hook_ctx *ctx, struct packet *packet, __u32 except, bool onward)
{
	if (!HOOK_FLOODS)
		return PUNT_FLOOD;
	hook_note(ctx, MACVLAN_EXCEPT, except);
	hook_note(ctx, MACVLAN_ONWARD, onward);
	hook_note(ctx, MACVLAN_LENGTH, child_length(ctx, packet));
	return FLOOD_PORTS;
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
	return macvlan_flood(ctx, packet, sender, false);
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
	__u32 slot = PYDP_MACVLAN_PARENT;
	struct child_port *parent = macvlan_ports.lookup(&slot);
	return parent && packet->dest == parent->mac ? PUNT_LOCAL : PASS_UNCLAIMED;
}

/* A frame in by a child (macvlan_queue_xmit). One for its own address comes back to it, as the kernel hands it to the parent first. */
static __always_inline enum verdict macvlan_stage(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	if (STAGE_CONSTANT(STAGE_MACVLAN, CONSTANT_ROLE) == ROLE_PARENT)
		return macvlan_parent(ctx, packet);
	if (PYDP_MACVLAN_TYPE != MACVLAN_BRIDGE)
		return macvlan_send(ctx, packet, PYDP_MACVLAN_PARENT);
	if (is_group(packet->dest) && !macvlan_is_pause(packet, 0))
		return macvlan_flood(ctx, packet, slot, true);
	__u32 child = is_group(packet->dest) ? CHILD_NOBODY : macvlan_child(packet->dest);
	return macvlan_send(ctx, packet, child == CHILD_NOBODY ? PYDP_MACVLAN_PARENT : child);
}

/* Copy the frame to the children, then let it go its way: out of the parent, or up to the host. */
int macvlan_copies(hook_ctx *ctx)
{
	__u32 except = hook_noted(ctx, MACVLAN_EXCEPT), onward = hook_noted(ctx, MACVLAN_ONWARD),
	      length = hook_noted(ctx, MACVLAN_LENGTH), parent = PYDP_MACVLAN_PARENT;
	for (__u32 i = 0; i < PYDP_MACVLAN_SLOTS; i++) {
		__u32 slot = i;
		struct child_port *out = macvlan_ports.lookup(&slot);
		if (out && out->flags & CHILD_PRESENT && i != except && i != parent && length <= out->max_length)
			hook_copy(ctx, out->ifindex);
	}
	if (!onward)
		return hook_pass();
	struct child_port *out = macvlan_ports.lookup(&parent);
	return out && length <= out->max_length ? hook_redirect(ctx, out->ifindex, false) : hook_drop();
}

/* What is left to do for a verdict after it was counted. */
static __always_inline void macvlan_finish(hook_ctx *ctx, enum verdict verdict)
{
	if (HOOK_FLOODS && verdict == FLOOD_PORTS)
		macvlan_tails.call(ctx, 0);
}
