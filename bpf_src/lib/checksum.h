// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Internet checksums (RFC 1071) and their updates (RFC 1624).

/* Fold a sum of 16-bit words into one, carries added. */
static __always_inline __u16 checksum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Sum of an IPv4 header without options as it stands: folded, 0xffff if its checksum is right. */
static __always_inline __u64 checksum_ipv4(const struct iphdr *ip)
{
	const __be32 *words = (const __be32 *)ip;
	return (__u64)words[0] + words[1] + words[2] + words[3] + words[4];
}

/* CHECK after a 16-bit word of what it covers went from OLD to NEW (RFC 1624 eqn. 3). */
static __always_inline __sum16 checksum_replace(__sum16 check, __be16 old, __be16 new)
{
	return ~checksum_fold((__u64)(__u16)~check + (__u16)~old + new);
}
