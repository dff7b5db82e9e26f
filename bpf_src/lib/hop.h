// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The next hop to an underlay address: device and MAC addresses, as the kernel's routes and neighbours have them.
//
// bpf_fib_lookup() costs more than all else that is done for a packet, so what it says is kept for 50 ms, per CPU. The kernel does not see
// packets that go by it, and would not notice that a neighbour has gone: so every two seconds one packet goes its way, which has it look.

enum hop_limit {
	HOP_KEPT = 3, /* ticks (16.8 ms) for which an answer holds */
	HOP_SHOWN = 120, /* ticks after which the kernel gets a packet */
};

struct hop {
	__u32 checked; /* when the kernel was asked, in ticks; 0 for never */
	__u32 shown; /* when it last got a packet */
	__u32 ifindex;
	__u16 mtu;
	__u8 ready; /* the addresses are known */
	__u8 pad;
	__u16 id; /* of the next IPv4 header */
	__u16 pad2[3];
	struct ethernet header; /* towards it, but for the ethertype */
};

enum hop_answer {
	HOP_READY = 0, /* the hop can be used */
	HOP_KERNEL = 1, /* the kernel is to send this one */
};

/* Ask the kernel about the way to REMOTE from LOCAL, as if a packet came in by IFINDEX: a device that forwards, or it does not answer. FIB gets what
 * it says, beside the BPF_FIB_LKUP_RET_* returned. */
static __always_inline long hop_ask(hook_ctx *ctx, struct bpf_fib_lookup *fib, const __be32 *remote,
				    const __be32 *local, __u32 ifindex, const bool ipv6, __u8 protocol)
{
	fib->l4_protocol = protocol;
	fib->tot_len = 1; /* says that the MTU of the path is wanted, exceptions (RFC 1191) included */
	fib->ifindex = ifindex;
	if (ipv6) {
		fib->family = 10;
		__builtin_memcpy(fib->ipv6_dst, remote, 16);
		__builtin_memcpy(fib->ipv6_src, local, 16);
	} else {
		fib->family = 2;
		fib->ipv4_dst = remote[0];
		fib->ipv4_src = local[0];
	}
	return bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
}

/* The Ethernet header towards the next hop, but for the ethertype. */
static __always_inline void hop_header(struct ethernet *header, const struct bpf_fib_lookup *fib)
{
	__u64 dest = *(__u32 *)fib->dmac | (__u64) * (__u16 *)(fib->dmac + 4) << 32;
	header->first = dest | (__u64) * (__u16 *)fib->smac << 48;
	header->middle = *(__u16 *)(fib->smac + 2) | (__u32) * (__u16 *)(fib->smac + 4) << 16;
}

/* Bring HOP up to date. That there is none yet is not kept: the next packet may find one. */
static __always_inline void hop_renew(hook_ctx *ctx, struct hop *hop, const __be32 *remote, const __be32 *local,
				      __u32 ifindex, const bool ipv6, __u8 protocol, __u32 now)
{
	if (!hop->checked)
		hop->id = bpf_get_prandom_u32(); /* CPUs that count alike would give pieces of two packets one number */
	if (hop->ready && now - hop->checked <= HOP_KEPT)
		return;
	hop->checked = now ? now : 1;
	struct bpf_fib_lookup fib = {};
	hop->ready = hop_ask(ctx, &fib, remote, local, ifindex, ipv6, protocol) == BPF_FIB_LKUP_RET_SUCCESS;
	if (!hop->ready)
		return;
	hop->ifindex = fib.ifindex;
	hop->mtu = fib.mtu_result;
	hop_header(&hop->header, &fib);
}

/* Bring HOP up to date, and say who sends the packet. LAST: no other program of ours sees it after this one, whichever hook this is. */
static __always_inline enum hop_answer hop_find(hook_ctx *ctx, struct hop *hop, const __be32 *remote,
						const __be32 *local, __u32 ifindex, const bool ipv6, __u8 protocol,
						__u32 now, const bool last)
{
	hop_renew(ctx, hop, remote, local, ifindex, ipv6, protocol, now);
	if (!hop->ready)
		return HOP_KERNEL;
	if (now - hop->shown <= HOP_SHOWN)
		return HOP_READY;
	if (last) /* whoever hands packets to the kernel keeps count */
		hop->shown = now;
	return HOP_KERNEL;
}
