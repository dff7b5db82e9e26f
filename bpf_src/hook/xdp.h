// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The operations of a hook, on XDP. hook/tc.h has the same ones.
//
// Here a VLAN tag is part of the frame, and there is no way to send one frame to several ports: what must be copied is
// handed up to the tc program that is attached beside this one.

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>

#include "lib/checksum.h"

typedef struct xdp_md hook_ctx;

enum hook {
	HOOK_FLOODS = 0, /* hook_copy() works */
	HOOK_TAG_IN_FRAME = 1, /* the outermost VLAN tag is part of the frame */
	HOOK_HEADER_STAYS = 0, /* hook_open() and hook_close() leave the Ethernet header in front */
	HOOK_OPENS_IP = 0, /* hook_open() and hook_close() take IP packets only, as the stack sees them */
};

static __always_inline void *hook_data(hook_ctx *ctx)
{
	return (void *)(long)ctx->data;
}

static __always_inline void *hook_data_end(hook_ctx *ctx)
{
	return (void *)(long)ctx->data_end;
}

/* Whole length of the frame, also of the buffers behind the first (PYDP_FRAGS). */
static __always_inline __u32 hook_length(hook_ctx *ctx)
{
	return PYDP_FRAGS ? (__u32)bpf_xdp_get_buff_len(ctx) : ctx->data_end - ctx->data;
}

/* Is the frame one that the device below cuts into pieces? Never here. */
static __always_inline bool hook_is_gso(hook_ctx *ctx)
{
	return false;
}

static __always_inline __u32 hook_gso_size(hook_ctx *ctx)
{
	return 0;
}

static __always_inline __u32 hook_gso_segments(hook_ctx *ctx)
{
	return 1;
}

/* Make the first LENGTH bytes readable through data pointers: they are, or nobody can. */
static __always_inline void hook_pull(hook_ctx *ctx, __u32 length)
{
}

/* The VLAN tag that is not in the frame: there is none. */
static __always_inline bool hook_outer_tag(hook_ctx *ctx, __be16 *protocol, __u16 *tci)
{
	return false;
}

static __always_inline bool hook_tagged(hook_ctx *ctx)
{
	return false;
}

/* Put a tag before the ethertype. */
static __always_inline bool hook_push_tag(hook_ctx *ctx, __be16 protocol, __u16 tci)
{
	if (bpf_xdp_adjust_head(ctx, -4))
		return false;
	__u8 *data = hook_data(ctx);
	if ((void *)(data + ETH_HLEN + 4) > hook_data_end(ctx))
		return false;
	__builtin_memmove(data, data + 4, 2 * ETH_ALEN);
	*(__be16 *)(data + 12) = protocol;
	*(__be16 *)(data + 14) = bpf_htons(tci);
	return true;
}

/* Take the outermost tag away. */
static __always_inline bool hook_pop_tag(hook_ctx *ctx)
{
	__u8 *data = hook_data(ctx);
	if ((void *)(data + ETH_HLEN + 4) > hook_data_end(ctx))
		return false;
	__u64 low = *(__u64 *)data;
	__u32 high = *(__u32 *)(data + 8);
	*(__u64 *)(data + 4) = low;
	*(__u32 *)(data + 12) = high;
	return !bpf_xdp_adjust_head(ctx, 4);
}

/* Write the outermost tag's TCI. */
static __always_inline bool hook_set_tag(hook_ctx *ctx, __be16 protocol, __u16 tci)
{
	__u8 *data = hook_data(ctx);
	if ((void *)(data + ETH_HLEN + 4) > hook_data_end(ctx))
		return false;
	*(__be16 *)(data + 14) = bpf_htons(tci);
	return true;
}

enum hook_close_flag {
	HOOK_NOW_IPV4 = 0, /* nobody has an idea of a frame's protocol yet */
	HOOK_NOW_IPV6 = 0,
};

/* Make room for SIZE bytes (a literal) in front of the frame. */
static __always_inline bool hook_open(hook_ctx *ctx, const __u32 size, __u64 flags)
{
	return !bpf_xdp_adjust_head(ctx, -(int)size);
}

/* Take SIZE bytes (a literal) away from the front. */
static __always_inline bool hook_close(hook_ctx *ctx, const __u32 size, __u64 flags)
{
	return !bpf_xdp_adjust_head(ctx, size);
}

/* Cut the frame to LENGTH bytes. */
static __always_inline bool hook_trim(hook_ctx *ctx, __u32 length)
{
	return !bpf_xdp_adjust_tail(ctx, (int)length - (int)hook_length(ctx));
}

/* Bring the checksum of a transport protocol at OFFSET up to date. The words of its pseudo header have changed by ADDRESSES, those that it covers in
 * the packet by WORDS, either as a sum of new ones and complements of old ones. With ZERO_IS_NONE (UDP) one of 0 stays. */
static __always_inline bool hook_fix_transport(hook_ctx *ctx, __u32 offset, __u64 addresses, __u64 words,
					       const bool zero_is_none)
{
	__sum16 *check = hook_data(ctx) + (offset & 0xfff);
	if ((void *)(check + 1) > hook_data_end(ctx))
		return false;
	__sum16 old = *check, new = ~checksum_fold((__u64)(__u16)~old + addresses + words);
	if (zero_is_none && !old)
		return true;
	*check = zero_is_none && !new ? 0xffff : new;
	return true;
}

/* Tell the hook that bytes behind the Ethernet header have changed by SUM for which no checksum among them makes up: nobody keeps a sum here. */
static __always_inline void hook_fix_frame(hook_ctx *ctx, __u64 sum)
{
}

/* Tell the hook what the bytes behind the Ethernet header add up to. */
static __always_inline void hook_set_frame(hook_ctx *ctx, __u64 sum)
{
}

/* Is the checksum at OFFSET yet to be filled in by the device that the frame leaves by? Not here, or nobody knows. */
static __always_inline bool hook_checksum_pending(hook_ctx *ctx, __u32 offset)
{
	return false;
}

/* The stack has no hash of a frame that it has not seen: flow_hash() makes one. */
static __always_inline __u32 hook_hash(hook_ctx *ctx)
{
	return 0;
}

/* Send a copy out of a device. */
static __always_inline void hook_copy(hook_ctx *ctx, __u32 ifindex)
{
}

/* Frames have no metadata of tunnels here. */
static __always_inline bool hook_describe(hook_ctx *ctx, struct bpf_tunnel_key *key, __u64 flags)
{
	return false;
}

static __always_inline bool hook_described(hook_ctx *ctx, struct bpf_tunnel_key *key, __u64 flags)
{
	return false;
}

/* Leave a word for a program that is called next: none is, here. */
static __always_inline void hook_note(hook_ctx *ctx, const __u32 number, __u32 value)
{
}

static __always_inline __u32 hook_noted(hook_ctx *ctx, const __u32 number)
{
	return 0;
}

/* The device that a frame came in by, on its way out: 0 for one of this host. Here there is no such way. */
static __always_inline __u32 hook_came_by(hook_ctx *ctx)
{
	return 0;
}

/* Frames that are sent from here pass by no other program. */
static __always_inline void hook_mark_done(hook_ctx *ctx)
{
}

static __always_inline bool hook_is_done(hook_ctx *ctx)
{
	return false;
}

/* The hook's words for "let it go on" and "drop it". */
static __always_inline int hook_pass(void)
{
	return XDP_PASS;
}

static __always_inline int hook_drop(void)
{
	return XDP_DROP;
}

/* Send the frame out of a device. */
static __always_inline int hook_redirect(hook_ctx *ctx, __u32 ifindex, bool peer)
{
	return bpf_redirect(ifindex, 0);
}

/* There is only one way here. */
static __always_inline int hook_turn(hook_ctx *ctx, __u32 ifindex, bool back)
{
	return XDP_DROP;
}
