// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Tells the sender of a packet that is too big for the tunnel how big it may be: ICMP fragmentation needed (RFC 1191 4) or ICMPv6 packet
// too big (RFC 4443 3.2), seeming to come from the destination, as iptunnel_pmtud_build_icmp() in net/ipv4/ip_tunnel_core.c has it.

#include "lib/answer.h"

enum too_big {
	TOO_BIG_LEAST4 = 576, /* MTU below which nothing is said: the quote would be longer than the packet */
	TOO_BIG_LEAST6 = 1280,
};

/* Does the kernel answer this one (iptunnel_pmtud_check_icmp)? Not for groups, nor for errors; IPv4 must say just DF. ALWAYS also answers those that
 * do not, and first fragments: the sender's stack takes it to heart all the same (ipv4_update_pmtu). */
static __always_inline bool too_big_answers(hook_ctx *ctx, const struct packet *packet, __u32 mtu, const bool always)
{
	void *at = hook_data(ctx) + ETH_HLEN, *end = hook_data_end(ctx);
	__u8 *byte = at;
	if (packet->network != ETH_HLEN || is_group(packet->dest))
		return false;
	if (packet->ethertype == bpf_htons(ETH_P_IPV6)) {
		if (mtu < TOO_BIG_LEAST6 || at + 41 > end || byte[8] == 0xff || byte[24] == 0xff)
			return false;
		return byte[6] != IP_ICMPV6 || byte[40] >= 128;
	}
	struct iphdr *ip = at;
	if (packet->ethertype != bpf_htons(ETH_P_IP) || mtu < TOO_BIG_LEAST4 || at + 21 > end)
		return false;
	bool wanted = always ? !(ip->frag_off & bpf_htons(0x1fff)) : ip->frag_off == bpf_htons(IP_DONT_FRAGMENT);
	if (ip->ihl != 5 || !wanted || !byte[12] || byte[12] >= 224 || byte[16] >= 224)
		return false;
	return ip->protocol != IP_ICMP || byte[20] == 8 || byte[20] == 0;
}

/* The answer. A checksum behind extension headers of IPv6 is not looked for. */
static __always_inline bool too_big_answer(hook_ctx *ctx, __u32 mtu, const bool ipv6)
{
	const __u32 size = ipv6 ? 40 : 20;
	const __u8 *byte = hook_data(ctx) + ETH_HLEN;
	const __be32 *words = (const void *)byte;
	struct tuple_view view = { .network = ETH_HLEN, .transport = ETH_HLEN + size, .version = ipv6 ? 6 : 4 };
	__be32 from[4] = {};
	if ((void *)byte + size > hook_data_end(ctx))
		return false;
	view.protocol = ipv6 ? byte[6] : byte[9];
#pragma unroll
	for (int i = 0; i < (ipv6 ? 4 : 1); i++) {
		view.tuple.saddr[i] = words[(ipv6 ? 2 : 3) + i];
		from[i] = words[(ipv6 ? 6 : 4) + i];
	}
	struct answer_error error = { .info = mtu,
				      .type = ipv6 ? 2 : 3,
				      .code = ipv6 ? 0 : 4,
				      .ttl = ipv6 ? byte[7] : byte[8] };
	return answer_quoting(ctx, &view, &error, from, true, ipv6);
}

/* Turn the frame into the answer: MTU is how long it may have been, from its IP header on. False if it cannot be. */
static __always_inline bool too_big_reply(hook_ctx *ctx, const struct packet *packet, __u32 mtu)
{
	return packet->ethertype == bpf_htons(ETH_P_IP) ? too_big_answer(ctx, mtu, false) :
							  too_big_answer(ctx, mtu, true);
}
