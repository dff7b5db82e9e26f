// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The checksum over a whole inner packet without reading it: TCP, UDP and ICMP have one of their own, with which their bytes add up to the
// complement of their pseudo header. So the sum of a frame follows from its headers, also while the inner checksum is still to be filled in
// (local checksum offload, Documentation/networking/checksum-offloads.rst). It is that of the frame if the inner checksum is right;
// if it is not, whoever reads it drops the packet anyway.

/* Words of 16 bits from AT on, COUNT a literal. */
static __always_inline __u64 whole_words(const void *at, const __u32 count)
{
	const __be16 *words = at;
	__u64 sum = 0;
#pragma unroll
	for (__u32 i = 0; i < count; i++)
		sum += words[i];
	return sum;
}

/* Complement of the pseudo header of LENGTH bytes of PROTOCOL between two addresses of WORDS words at AT. */
static __always_inline __u64 whole_rest(const void *at, const __u32 words, __u8 protocol, __u32 length)
{
	__u64 sum = whole_words(at, words) + bpf_htons(length) + bpf_htons(protocol);
	return (__u16)~checksum_fold(sum);
}

/* Add to SUM the LENGTH bytes of a packet that begins with an IP header at AT. False if they cannot be told without reading them. */
static __always_inline bool whole_ip(const void *at, const void *end, __be16 ethertype, __u32 length, __u64 *sum)
{
	const struct iphdr *ip = at;
	const struct ipv6hdr *ip6 = at;
	if (ethertype == bpf_htons(ETH_P_IP) && at + 28 <= end) {
		if (ip->ihl != 5 || ip->frag_off & bpf_htons(0x3fff) || bpf_ntohs(ip->tot_len) != length)
			return false;
		*sum += whole_words(at, 10);
		if (ip->protocol == IP_ICMP) /* no pseudo header: the words add up to 0xffff, which is 0 */
			return true;
		if (ip->protocol == IP_TCP || (ip->protocol == IP_UDP && *(__be16 *)(at + 26))) {
			*sum += whole_rest(at + 12, 4, ip->protocol, length - 20);
			return true;
		}
	} else if (ethertype == bpf_htons(ETH_P_IPV6) && at + 48 <= end) {
		if (bpf_ntohs(ip6->payload_len) + 40 != length)
			return false;
		*sum += whole_words(at, 20);
		if (ip6->nexthdr == IP_TCP || ip6->nexthdr == IP_ICMPV6 || ip6->nexthdr == IP_UDP) {
			*sum += whole_rest(at + 8, 16, ip6->nexthdr, length - 40);
			return true;
		}
	}
	return false;
}
