// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The operations of a hook, on tc (clsact or tcx). hook/xdp.h has the same ones.
//
// Here the outermost VLAN tag is in skb metadata, wherever it came from: __netif_receive_skb_core() moves it there
// before this hook runs. A frame may be a GSO frame, longer than any MTU, with its checksum not yet filled in.

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/pkt_cls.h>

#include "lib/checksum.h"

typedef struct __sk_buff hook_ctx;

enum hook {
	HOOK_FLOODS = 1, /* hook_copy() works */
	HOOK_TAG_IN_FRAME = 0, /* the outermost VLAN tag is part of the frame */
	HOOK_HEADER_STAYS = 1, /* hook_open() and hook_close() leave the Ethernet header in front */
	HOOK_DONE = 0x7d5e, /* the mark of hook_mark_done() */
	HOOK_OPENS_IP = 1, /* hook_open() and hook_close() take IP packets only, as the stack sees them */
};

/* In these words, since the compiler would merge branches into one that reads from a computed place of the context, which the verifier refuses. */
static __always_inline void *hook_data(hook_ctx *ctx)
{
	void *data;
	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(data) : "r"(ctx), "i"(offsetof(struct __sk_buff, data)));
	return data;
}

static __always_inline void *hook_data_end(hook_ctx *ctx)
{
	void *end;
	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(end) : "r"(ctx), "i"(offsetof(struct __sk_buff, data_end)));
	return end;
}

/* Whole length of the frame, without a tag in metadata. */
static __always_inline __u32 hook_length(hook_ctx *ctx)
{
	return ctx->len;
}

/* Is the frame one that the device below cuts into pieces? */
static __always_inline bool hook_is_gso(hook_ctx *ctx)
{
	return ctx->gso_size > 0;
}

/* Payload of each piece in bytes, 0 for a frame that stays whole. */
static __always_inline __u32 hook_gso_size(hook_ctx *ctx)
{
	return ctx->gso_size;
}

/* Number of pieces, 1 for a frame that stays whole. */
static __always_inline __u32 hook_gso_segments(hook_ctx *ctx)
{
	return ctx->gso_segs ? ctx->gso_segs : 1;
}

/* Make the first LENGTH bytes readable through data pointers, where they lie behind the linear part. */
static __always_inline void hook_pull(hook_ctx *ctx, __u32 length)
{
	__u64 linear = hook_data_end(ctx) - hook_data(ctx);
	if (linear < length && linear < ctx->len)
		bpf_skb_pull_data(ctx, length < ctx->len ? length : ctx->len);
}

/* The VLAN tag that is not in the frame. */
static __always_inline bool hook_outer_tag(hook_ctx *ctx, __be16 *protocol, __u16 *tci)
{
	if (!ctx->vlan_present)
		return false;
	*protocol = ctx->vlan_proto;
	*tci = ctx->vlan_tci;
	return true;
}

/* Is there a tag beside the frame? */
static __always_inline bool hook_tagged(hook_ctx *ctx)
{
	return ctx->vlan_present;
}

/* Put a tag before the ethertype; one that is in metadata moves into the frame. */
static __always_inline bool hook_push_tag(hook_ctx *ctx, __be16 protocol, __u16 tci)
{
	return !bpf_skb_vlan_push(ctx, protocol, tci);
}

/* Take the outermost tag away. */
static __always_inline bool hook_pop_tag(hook_ctx *ctx)
{
	return !bpf_skb_vlan_pop(ctx);
}

/* Write the outermost tag's TCI. */
static __always_inline bool hook_set_tag(hook_ctx *ctx, __be16 protocol, __u16 tci)
{
	return !bpf_skb_vlan_pop(ctx) && !bpf_skb_vlan_push(ctx, protocol, tci);
}

/* Flags of hook_close(): the frame's network protocol changes. In the kernel's numbers (Linux 6.3), which older headers lack. */
enum hook_close_flag {
	HOOK_NOW_IPV4 = 128, /* BPF_F_ADJ_ROOM_DECAP_L3_IPV4 */
	HOOK_NOW_IPV6 = 256, /* BPF_F_ADJ_ROOM_DECAP_L3_IPV6 */
};

enum hook_close_limit {
	HOOK_EINVAL = -22, /* the error of a kernel without these flags */
	HOOK_LONGER = 20, /* bytes by which an IPv6 header is longer than one of IPv4 */
};

/* Make room for SIZE bytes (a literal) behind the Ethernet header, FLAGS saying what will be in it. The old header stays in front and the
 * room begins behind it, so all of the first SIZE + 14 bytes is to be written. */
static __always_inline bool hook_open(hook_ctx *ctx, const __u32 size, __u64 flags)
{
	return !bpf_skb_adjust_room(ctx, size, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_FIXED_GSO);
}

/* Take SIZE bytes (a literal) away behind the Ethernet header. FLAGS say what is left if its network protocol is another one. */
static __always_inline bool hook_close(hook_ctx *ctx, const __u32 size, __u64 flags)
{
	__s32 rest = -(__s32)size;
	long failed = bpf_skb_adjust_room(ctx, rest, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_FIXED_GSO);
	if (failed != HOOK_EINVAL || !flags)
		return !failed;
	/* The other helper that changes the protocol makes the header as much longer or shorter as those of IP are. */
	const bool ipv6 = flags & HOOK_NOW_IPV6;
	rest -= ipv6 ? HOOK_LONGER : -HOOK_LONGER;
	return !bpf_skb_change_proto(ctx, bpf_htons(ipv6 ? ETH_P_IPV6 : ETH_P_IP), 0) &&
	       !bpf_skb_adjust_room(ctx, rest, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
}

/* Cut the frame to LENGTH bytes. It is in one piece and has no segments from then on. */
static __always_inline bool hook_trim(hook_ctx *ctx, __u32 length)
{
	return !bpf_skb_change_tail(ctx, length, 0);
}

/* Bring the checksum of a transport protocol at OFFSET up to date. The words of its pseudo header have changed by ADDRESSES, those that it covers in
 * the packet by WORDS, either as a sum of new ones and complements of old ones. With ZERO_IS_NONE (UDP) one of 0 stays. A checksum that the
 * device is to fill in has only the pseudo header in it so far, which the helper knows: hence two calls. */
static __always_inline bool hook_fix_transport(hook_ctx *ctx, __u32 offset, __u64 addresses, __u64 words,
					       const bool zero_is_none)
{
	const __u64 flags = zero_is_none ? BPF_F_MARK_MANGLED_0 : 0;
	__u16 pseudo = checksum_fold(addresses), plain = checksum_fold(words);
	if (pseudo != 0xffff && bpf_l4_csum_replace(ctx, offset, 0, pseudo, flags | BPF_F_PSEUDO_HDR))
		return false;
	return plain == 0xffff || !bpf_l4_csum_replace(ctx, offset, 0, plain, flags);
}

/* Tell the hook that bytes behind the Ethernet header have changed by SUM for which no checksum among them makes up: a device may have summed
 * up the frame (CHECKSUM_COMPLETE). */
static __always_inline void hook_fix_frame(hook_ctx *ctx, __u64 sum)
{
	__u16 change = checksum_fold(sum);
	if (change && change != 0xffff)
		bpf_csum_update(ctx, change);
}

/* Tell the hook what the bytes behind the Ethernet header add up to. The helper adds to the device's sum and gives it, or an error if there is
 * none; bcc declares it as if it gave 32 bits. */
static __always_inline void hook_set_frame(hook_ctx *ctx, __u64 sum)
{
	__s64 (*csum_update)(void *frame, __u32 change) = (void *)BPF_FUNC_csum_update;
	__s64 old = csum_update(ctx, 0);
	if (old >= 0)
		csum_update(ctx, checksum_fold(sum + (__u16)~checksum_fold(old)));
}

/* Is the checksum at OFFSET yet to be filled in by the device that the frame leaves by? Nobody says so, but then it does not change when a word
 * that it covers does. */
static __always_inline bool hook_checksum_pending(hook_ctx *ctx, __u32 offset)
{
	__sum16 before = 0, after = 0;
	if (bpf_skb_load_bytes(ctx, offset, &before, 2) || bpf_l4_csum_replace(ctx, offset, 0, 1, 0) ||
	    bpf_skb_load_bytes(ctx, offset, &after, 2))
		return false;
	bpf_skb_store_bytes(ctx, offset, &before, 2, 0);
	return before == after;
}

/* A hash of the flow: that of the stack, which it keeps with the frame. */
static __always_inline __u32 hook_hash(hook_ctx *ctx)
{
	return bpf_get_hash_recalc(ctx);
}

/* Send a copy out of a device. */
static __always_inline void hook_copy(hook_ctx *ctx, __u32 ifindex)
{
	bpf_clone_redirect(ctx, ifindex, 0);
}

/* Say in the frame's tunnel metadata how a tunnel device of the kernel is to encapsulate it. */
static __always_inline bool hook_describe(hook_ctx *ctx, struct bpf_tunnel_key *key, __u64 flags)
{
	return !bpf_skb_set_tunnel_key(ctx, key, sizeof(*key), flags);
}

/* What a tunnel device of the kernel says about a frame that it took out of its packet. */
static __always_inline bool hook_described(hook_ctx *ctx, struct bpf_tunnel_key *key, __u64 flags)
{
	return !bpf_skb_get_tunnel_key(ctx, key, sizeof(*key), flags);
}

/* Leave word number NUMBER (0 to 4, a literal) for a program that is called next. */
static __always_inline void hook_note(hook_ctx *ctx, const __u32 number, __u32 value)
{
	ctx->cb[number] = value;
}

static __always_inline __u32 hook_noted(hook_ctx *ctx, const __u32 number)
{
	return ctx->cb[number];
}

/* The device that a frame came in by, on its way out: 0 for one of this host. */
static __always_inline __u32 hook_came_by(hook_ctx *ctx)
{
	return ctx->ingress_ifindex;
}

/* Mark a frame that this program sends out of a device, for the program on the way out there: nothing is left to be done with it. In a field that only
 * old queueing disciplines look at. */
static __always_inline void hook_mark_done(hook_ctx *ctx)
{
	ctx->tc_index = HOOK_DONE;
}

/* Is the frame marked? Takes the mark away. */
static __always_inline bool hook_is_done(hook_ctx *ctx)
{
	if (ctx->tc_index != HOOK_DONE)
		return false;
	ctx->tc_index = 0;
	return true;
}

/* The hook's words for "let it go on" and "drop it". TC_ACT_UNSPEC is the "next, please" of clsact and tcx alike. */
static __always_inline int hook_pass(void)
{
	return TC_ACT_UNSPEC;
}

static __always_inline int hook_drop(void)
{
	return TC_ACT_SHOT;
}

/* Send the frame out of a device. PEER: that is a veth, and its peer may be handed the frame at once. It is then said to be for that device: the
 * kernel does so itself since Linux 6.15 only, and else what was for another address than that of the port it came in by is dropped there
 * (PACKET_OTHERHOST). */
static __always_inline int hook_redirect(hook_ctx *ctx, __u32 ifindex, bool peer)
{
	if (!peer)
		return bpf_redirect(ifindex, 0);
	bpf_skb_change_type(ctx, 0 /* PACKET_HOST */);
	return bpf_redirect_peer(ifindex, 0);
}

/* Send the frame into a device, or out of it to the next hop that the kernel finds. bcc declares the helper as it was before Linux 5.10. */
static __always_inline int hook_turn(hook_ctx *ctx, __u32 ifindex, bool back)
{
	long (*redirect_neigh)(__u32 device, void *hop, int size, __u64 flags) = (void *)BPF_FUNC_redirect_neigh;
	return back ? bpf_redirect(ifindex, BPF_F_INGRESS) : redirect_neigh(ifindex, 0, 0, 0);
}
