// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// An IP packet that goes into a tunnel or came out of one: reading its header, and the changes that a router makes to it.

enum inner_limit {
	ECN_LOST = 4, /* congestion was met, and the inner packet cannot say so */
};

/* What of its header a router looks at. */
struct inner_packet {
	__be32 saddr[4]; /* IPv4 in the first word */
	__be32 daddr[4];
	__u32 length; /* in bytes, as the header says; that of a frame that is cut up below may not fit there */
	__u8 tos; /* or traffic class */
	__u8 ttl; /* or hop limit */
	__u8 protocol; /* next header */
	__u8 header; /* its own length in bytes */
	__u8 plain; /* no options; with IPv6 always */
	__u8 df; /* must not be fragmented; with IPv6 always */
	__u8 right; /* the checksum of the header is; with IPv6 always */
};

/* Read the header at AT. False for what is none or ends early. */
static __always_inline bool inner_packet_read(void *at, void *end, const bool ipv6, struct inner_packet *inner)
{
	struct iphdr *ip = at;
	struct ipv6hdr *ip6 = at;
	if (at + (ipv6 ? 40 : 20) > end)
		return false;
	if (ipv6) {
		__builtin_memcpy(inner->saddr, &ip6->saddr, 16);
		__builtin_memcpy(inner->daddr, &ip6->daddr, 16);
		inner->length = bpf_ntohs(ip6->payload_len) + 40;
		inner->tos = bpf_ntohs(*(__be16 *)at) >> 4;
		inner->ttl = ip6->hop_limit;
		inner->protocol = ip6->nexthdr;
		inner->header = 40;
		inner->plain = inner->df = inner->right = 1;
		return ip6->version == 6;
	}
	inner->saddr[0] = ip->saddr;
	inner->daddr[0] = ip->daddr;
	inner->length = bpf_ntohs(ip->tot_len);
	inner->tos = ip->tos;
	inner->ttl = ip->ttl;
	inner->protocol = ip->protocol;
	inner->header = ip->ihl * 4;
	inner->plain = ip->ihl == 5;
	inner->df = !!(ip->frag_off & bpf_htons(IP_DONT_FRAGMENT));
	inner->right = checksum_fold(checksum_ipv4(ip)) == 0xffff;
	return ip->version == 4 && ip->ihl >= 5;
}

/* Could a router send it on by its source (RFC 1812 5.3.7, RFC 4291 2.5.6)? */
static __always_inline bool inner_source_sane(const struct inner_packet *inner, const bool ipv6)
{
	const __u8 *first = (const __u8 *)inner->saddr;
	if (ipv6)
		return first[0] && first[0] != 0xff && (first[0] != 0xfe || (first[1] & 0xc0) != 0x80);
	return first[0] && first[0] != 127 && first[0] < 224;
}

/* ECN inside after a header with that ECN outside was taken off (RFC 6040 4.2, as INET_ECN_decapsulate() has it). */
static __always_inline __u8 inner_ecn(__u8 outside, __u8 inside)
{
	outside &= ECN_MASK;
	inside &= ECN_MASK;
	if (outside == ECN_CE)
		return inside ? ECN_CE : ECN_LOST;
	return outside == ECN_ECT1 && inside == ECN_ECT0 ? ECN_ECT1 : inside;
}

/* Write the ECN bits of the header at AT, which was checked. */
static __always_inline void inner_set_ecn(void *at, const bool ipv6, __u8 ecn)
{
	__be16 *word = at, old = *word;
	const __u32 shift = ipv6 ? 4 : 0;
	*word = bpf_htons((bpf_ntohs(old) & ~(ECN_MASK << shift)) | ecn << shift);
	if (!ipv6) {
		struct iphdr *ip = at;
		ip->check = checksum_replace(ip->check, old, *word);
	}
}

/* TTL, protocol and checksum of an IPv4 header (its third word) with one less TTL, which is not 0 (RFC 1624; what checksum_replace() gives). */
static __always_inline __be32 inner_aged(__be32 word)
{
	/* The checksum is one more, and one more than that if that makes 0xffff or carries. */
	return word + 0xffff + (((word >> 16) + 2) & 0x10000);
}

/* Take one from the TTL of the header at AT, which was checked. */
static __always_inline void inner_age(void *at, const bool ipv6)
{
	if (ipv6) {
		((struct ipv6hdr *)at)->hop_limit--;
		return;
	}
	/* In one word: reading back what was written in parts would wait for it. */
	__be32 *word = at + 8;
	*word = inner_aged(*word);
}
