// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Is an IPv4 packet as plain as can be? Answers are words that are 0 if so, for a short way to gather in one and look at once: each branch
// would cost more than what it spares. Bytes are read several at a time, as a little-endian machine has them.

/* Keep the compiler from putting off what WORD is made from, which would keep all of that in registers until then. */
#define PLAIN_SO_FAR(word) asm volatile("" : "+r"(word))

/* Of the frame at DATA, which has ETH_HLEN + 20 bytes: no tags, an IPv4 header without options. */
static __always_inline __u64 plain_frame(const void *data)
{
	return (*(__u32 *)(data + 12) & 0x00ffffff) ^ 0x00450008;
}

/* The header's checksum is right. The sum of its words is divisible by 65535 then (RFC 1071), and its product with the inverse of that modulo
 * 2^64 is the quotient, which is small (SUM being less than 2^50); of a number that is not divisible it is beyond 2^48. */
static __always_inline __u64 plain_sum(__u64 sum)
{
	return sum * 0xfffefffefffeffffULL >> 40;
}

static __always_inline __u64 plain_checksum(const __be32 *ip)
{
	return plain_sum((__u64)ip[0] + ip[1] + ip[2] + ip[3] + ip[4]);
}

/* An inner header begins a packet of LENGTH bytes, and has no options. */
static __always_inline __u64 plain_inner(const __be32 *ip, __u32 length)
{
	return (ip[0] ^ (0x45 | (__u32)bpf_htons(length) << 16)) & 0xffff00ff;
}

/* All of the above for the frame at DATA, which has LENGTH bytes behind its Ethernet header: a packet to DADDR, whole, of PROTOCOL, that met no
 * congestion (CE and ECT(1) have the lowest bit of the TOS). */
static __always_inline __u64 plain_outer(const void *data, __u64 length, const __be32 daddr, const __u8 protocol)
{
	__u64 first = *(__u64 *)(data + 12), second = *(__u32 *)(data + 20), to = *(__be32 *)(data + 30);
	__u64 sum = (first >> 16) + second + *(__u16 *)(data + 24) + *(__be32 *)(data + 26) + to;
	first ^= 0x00450008 | (__u64)bpf_htons(length) << 32;
	return (first & 0xffff01ffffffULL) | ((second & 0xff00ff3f) ^ (__u32)protocol << 24) | (to ^ daddr) |
	       plain_sum(sum);
}

/* The checksum for a header whose 16-bit words add up to SUM, of less than 32 bits (RFC 1071). */
static __always_inline __u16 plain_check(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}
