// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Tells the sender of a packet that is too big for the tunnel how big it may be: ICMP fragmentation needed (RFC 1191 4) or ICMPv6 packet
// too big (RFC 4443 3.2), seeming to come from the destination, as iptunnel_pmtud_build_icmp() in net/ipv4/ip_tunnel_core.c has it.

enum too_big {
	TOO_BIG_QUOTE4 = 548, /* bytes quoted: 576 in all (RFC 1812 4.3.2.3) */
	TOO_BIG_QUOTE6 = 1232, /* 1280 in all (RFC 4443 2.4 c) */
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

static __always_inline __u64 too_big_sum(void *at, const __u32 size)
{
	__u64 sum = 0;
#pragma unroll
	for (__u32 i = 0; i < 3; i++) {
		const __u32 begin = i * 512, rest = size > begin ? size - begin : 0;
		if (rest)
			sum = (__u32)bpf_csum_diff(0, 0, at + begin, rest < 512 ? rest : 512, sum);
	}
	return sum;
}

static __always_inline bool too_big_reply4(hook_ctx *ctx, __u32 mtu)
{
	void *before = hook_data(ctx);
	struct iphdr *ip = before + ETH_HLEN;
	if ((void *)(ip + 1) > hook_data_end(ctx))
		return false;
	__be32 saddr = ip->saddr, daddr = ip->daddr;
	__u8 ttl = ip->ttl;
	struct ethernet header;
	ethernet_read(&header, before);
	ethernet_swap(&header);
	if (!hook_trim(ctx, ETH_HLEN + TOO_BIG_QUOTE4) || !hook_open(ctx, 28, 0))
		return false;
	hook_pull(ctx, ETH_HLEN + 28 + TOO_BIG_QUOTE4);
	void *data = hook_data(ctx);
	if (data + ETH_HLEN + 28 + TOO_BIG_QUOTE4 > hook_data_end(ctx))
		return false;
	ethernet_write(data, &header);
	ip = data + ETH_HLEN;
	*(__be16 *)ip = bpf_htons(0x4500);
	ip->tot_len = bpf_htons(28 + TOO_BIG_QUOTE4);
	ip->id = 0;
	ip->frag_off = bpf_htons(IP_DONT_FRAGMENT);
	ip->ttl = ttl;
	ip->protocol = IP_ICMP;
	ip->check = 0;
	ip->saddr = daddr;
	ip->daddr = saddr;
	ip->check = ~checksum_fold(checksum_ipv4(ip));
	__be16 *icmp = (void *)(ip + 1);
	icmp[0] = bpf_htons(3 << 8 | 4);
	icmp[1] = 0;
	icmp[2] = 0;
	icmp[3] = bpf_htons(mtu);
	icmp[1] = ~checksum_fold((__u64)icmp[0] + icmp[3] + too_big_sum(icmp + 4, TOO_BIG_QUOTE4));
	return true;
}

static __always_inline bool too_big_reply6(hook_ctx *ctx, __u32 mtu)
{
	void *before = hook_data(ctx);
	struct ipv6hdr *ip = before + ETH_HLEN;
	if ((void *)(ip + 1) > hook_data_end(ctx))
		return false;
	__be32 saddr[4], daddr[4];
	__builtin_memcpy(saddr, &ip->saddr, 16);
	__builtin_memcpy(daddr, &ip->daddr, 16);
	__u8 ttl = ip->hop_limit;
	struct ethernet header;
	ethernet_read(&header, before);
	ethernet_swap(&header);
	if (!hook_trim(ctx, ETH_HLEN + TOO_BIG_QUOTE6) || !hook_open(ctx, 48, 0))
		return false;
	hook_pull(ctx, ETH_HLEN + 48 + TOO_BIG_QUOTE6);
	void *data = hook_data(ctx);
	if (data + ETH_HLEN + 48 + TOO_BIG_QUOTE6 > hook_data_end(ctx))
		return false;
	ethernet_write(data, &header);
	ip = data + ETH_HLEN;
	*(__be32 *)ip = bpf_htonl(6 << 28);
	ip->payload_len = bpf_htons(8 + TOO_BIG_QUOTE6);
	ip->nexthdr = IP_ICMPV6;
	ip->hop_limit = ttl;
	__builtin_memcpy(&ip->saddr, daddr, 16);
	__builtin_memcpy(&ip->daddr, saddr, 16);
	__be32 *icmp = (void *)(ip + 1);
	icmp[0] = bpf_htonl(2 << 24);
	icmp[1] = bpf_htonl(mtu);
	__u64 sum = too_big_sum(icmp, 8 + TOO_BIG_QUOTE6) + bpf_htonl(8 + TOO_BIG_QUOTE6) + bpf_htonl(IP_ICMPV6);
#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (__u64)saddr[i] + daddr[i];
	*((__sum16 *)icmp + 1) = ~checksum_fold(sum);
	return true;
}

/* Turn the frame into the answer: MTU is how long it may have been, from its IP header on. False if it cannot be. */
static __always_inline bool too_big_reply(hook_ctx *ctx, const struct packet *packet, __u32 mtu)
{
	return packet->ethertype == bpf_htons(ETH_P_IP) ? too_big_reply4(ctx, mtu) : too_big_reply6(ctx, mtu);
}
