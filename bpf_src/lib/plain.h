// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Is an IPv4 packet as plain as can be? Answers are words that are 0 if so, for a short way to gather in one and look at once: each branch
// would cost more than what it spares. Bytes are read several at a time, as a little-endian machine has them.

/* Keep the compiler from putting off what WORD is made from, which would keep all of that in registers until then. */
#define PLAIN_SO_FAR(word) asm volatile("" : "+r"(word))

/* Of the frame at DATA, which has ETH_HLEN + 20 bytes: no tags, an IPv4 header without options; with UNMARKED, no congestion met (CE and ECT(1)
 * have the lowest bit of the TOS). */
static __always_inline __u64 plain_frame(const void *data, const bool unmarked)
{
	return (*(__u32 *)(data + 12) & (unmarked ? 0x01ffffff : 0x00ffffff)) ^ 0x00450008;
}

/* The header's checksum is right. The sum of its words is divisible by 65535 then (RFC 1071), and its product with the inverse of that modulo
 * 2^64 is the quotient, which is small; of a number that is not divisible it is beyond 2^48. */
static __always_inline __u64 plain_checksum(const __be32 *ip)
{
	return ((__u64)ip[0] + ip[1] + ip[2] + ip[3] + ip[4]) * 0xfffefffefffeffffULL >> 32;
}

/* It is no fragment, and of this PROTOCOL. */
static __always_inline __u64 plain_whole(const __be32 *ip, const __u8 protocol)
{
	return (*(__u32 *)((void *)ip + 6) & 0xff00ff3f) ^ (__u32)protocol << 24;
}

/* The packet has LENGTH bytes. */
static __always_inline __u64 plain_length(const __be32 *ip, __u32 length)
{
	return *(__be16 *)((void *)ip + 2) ^ bpf_htons(length);
}

/* The checksum for a header whose 16-bit words add up to SUM, of less than 32 bits (RFC 1071). */
static __always_inline __u16 plain_check(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}
