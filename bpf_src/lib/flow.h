// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A number for a flow, from its addresses and ports.

static __always_inline __u32 flow_mix(__u32 hash, __u32 word)
{
	hash = (hash ^ word) * 0x9e3779b1;
	return hash ^ (hash >> 15);
}

/* The first words of addresses and ports, from where the headers have them when nothing stands in between. */
static __always_inline __u32 flow_hash_ip(void *at, void *end, __be16 ethertype)
{
	struct iphdr *ip = at;
	struct ipv6hdr *ip6 = at;
	__u32 hash;
	if (ethertype == bpf_htons(ETH_P_IP) && at + 24 <= end) {
		__u64 mixed = (ip->saddr | (__u64)ip->daddr << 32) * 0x9e3779b97f4a7c15ULL;
		bool ports = (ip->protocol == IP_TCP || ip->protocol == IP_UDP) && ip->ihl == 5 &&
			     !(ip->frag_off & bpf_htons(0x3fff));
		mixed = (mixed ^ mixed >> 32) + ip->protocol + (ports ? (__u64) * (__be32 *)(at + 20) << 8 : 0);
		return mixed * 0xd6e8feb86659fd93ULL >> 32;
	}
	if (ethertype == bpf_htons(ETH_P_IPV6) && at + 44 <= end) {
		const __be32 *words = at + 8;
		hash = ip6->nexthdr;
#pragma unroll
		for (int i = 0; i < 8; i++)
			hash = flow_mix(hash, words[i]);
		bool ports = ip6->nexthdr == IP_TCP || ip6->nexthdr == IP_UDP;
		return ports ? flow_mix(hash, *(__be32 *)(at + 40)) : hash;
	}
	return 0;
}

/* What the stack knows, or else what the headers give; MAC addresses for what is not IP. */
static __always_inline __u32 flow_hash(hook_ctx *ctx, const struct packet *packet)
{
	__u32 hash = hook_hash(ctx);
	if (!hash)
		hash = flow_hash_ip(hook_data(ctx) + packet->network, hook_data_end(ctx), packet->ethertype);
	if (!hash)
		hash = flow_mix((__u32)packet->source ^ (__u32)(packet->dest >> 16), packet->ethertype);
	return hash;
}

/* A source port in [LOW, HIGH) for a flow, as udp_flow_src_port() picks it. */
static __always_inline __u16 flow_source_port(__u32 hash, __u32 low, __u32 high)
{
	hash ^= hash << 16;
	return ((__u64)hash * (high - low) >> 32) + low;
}
