// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Writing an outer IP header, of either version.

#include "lib/checksum.h"

enum outer_header {
	OUTER_DONT_FRAGMENT = 0x4000,
};

struct outer {
	const __be32 *saddr;
	const __be32 *daddr;
	__u16 payload; /* bytes behind the header */
	__u16 id;
	__u8 tos;
	__u8 ttl;
	__u8 protocol;
	__u8 df;
};

/* Write 20 or 40 bytes at AT, which were checked. */
static __always_inline void outer_header_write(void *at, const struct outer *outer, const bool ipv6)
{
	if (ipv6) {
		struct ipv6hdr *ip = at;
		*(__be32 *)at = bpf_htonl(6 << 28 | (__u32)outer->tos << 20);
		ip->payload_len = bpf_htons(outer->payload);
		ip->nexthdr = outer->protocol;
		ip->hop_limit = outer->ttl;
		__builtin_memcpy(&ip->saddr, outer->saddr, 16);
		__builtin_memcpy(&ip->daddr, outer->daddr, 16);
		return;
	}
	/* In registers, and in few stores: reading back words for the checksum that were written in parts would cost more than all else. */
	__be32 words[5] = {
		bpf_htonl(0x45 << 24 | (__u32)outer->tos << 16 | (__u16)(outer->payload + 20)),
		bpf_htonl((__u32)outer->id << 16 | (outer->df ? OUTER_DONT_FRAGMENT : 0)),
		bpf_htonl((__u32)outer->ttl << 24 | (__u32)outer->protocol << 16),
		outer->saddr[0],
		outer->daddr[0],
	};
	__u16 check = ~checksum_fold((__u64)words[0] + words[1] + words[2] + words[3] + words[4]);
	*(__u64 *)at = words[0] | (__u64)words[1] << 32;
	*(__u64 *)(at + 8) = words[2] | (__u32)check << 16 | (__u64)words[3] << 32;
	*(__be32 *)(at + 16) = words[4];
}
