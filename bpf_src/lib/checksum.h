// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Internet checksums (RFC 1071) and their updates (RFC 1624).

#include <uapi/linux/ip.h>

enum checksum_limit {
	CHECKSUM_PIECE = 512, /* bytes that bpf_csum_diff() takes at a time before Linux 6.12 */
	CHECKSUM_LONGEST = 2047, /* bytes that checksum_bytes() takes */
};

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

/* DATA and PLACE. Kept apart from what clang knows of its parts: it would have an "or" for a sum that carries nothing, and no mask; and an "or" with
 * something unknown tells the verifier of Linux 6.1 nothing. */
static __always_inline void *checksum_at(void *data, __u32 place)
{
	asm volatile("" : "+r"(place));
	return data + (place & 0xfff);
}

/* Add LENGTH bytes (up to CHECKSUM_LONGEST) at OFFSET (up to as many) of a packet to SUM. False if they are not all there. In pieces whose sizes
 * are literals, from the largest down: the helper wants a range that is known to be there, and multiples of four. */
static __always_inline bool checksum_bytes(void *data, void *end, __u32 offset, __u32 length, __u64 *sum)
{
	if (length > CHECKSUM_LONGEST)
		return false;
	__u64 total = *sum;
#pragma unroll
	for (int bit = 10; bit >= 2; bit--) {
		const __u32 size = 1 << bit, piece = size < CHECKSUM_PIECE ? size : CHECKSUM_PIECE;
		void *at = checksum_at(data, offset + (length & -(2 * size)));
		if (!(length & size))
			continue;
		if (at + size > end)
			return false;
		total += (__u32)bpf_csum_diff(0, 0, at, piece, 0);
		if (size > piece)
			total += (__u32)bpf_csum_diff(0, 0, at + piece, piece, 0);
	}
	__u8 *rest = checksum_at(data, offset + (length & -4));
	if (length & 2) {
		if (rest + 2 > (__u8 *)end)
			return false;
		total += *(__be16 *)rest;
	}
	rest = checksum_at(data, offset + (length & -2));
	if (length & 1) {
		if (rest + 1 > (__u8 *)end)
			return false;
		total += *rest; /* as if a zero followed */
	}
	*sum = total;
	return true;
}
