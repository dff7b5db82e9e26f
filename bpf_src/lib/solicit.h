// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Neighbours that are not there: an IPv6 route cannot have an IPv4 gateway, so routes into an IPv6-in-IPv4 tunnel lead by way of
// fe80::5efe:A.B.C.D (the form of RFC 5214 6.1), and who asks the underlay for that gets an answer here.

#include "lib/checksum.h"

enum solicit_limit {
	SOLICIT_SIZE =
		32, /* solicitation or advertisement with the one option that is of interest (RFC 4861 4.3, 4.4) */
	SOLICIT_LENGTH = ETH_HLEN + 40 + SOLICIT_SIZE, /* of the whole frame */
};

/* An address that nobody has: locally administered. What goes there gets another one when it is encapsulated. */
#define SOLICIT_MAC 0x0070647970feULL

/* Is the frame a solicitation for such a neighbour? */
static __always_inline bool solicit_ours(hook_ctx *ctx)
{
	__u8 *byte = hook_data(ctx) + ETH_HLEN;
	if ((void *)byte + 40 + SOLICIT_SIZE > hook_data_end(ctx))
		return false;
	__be32 *target = (void *)byte + 48;
	if (byte[6] != IP_ICMPV6 || byte[7] != 255 || byte[40] != 135 || byte[64] != 1)
		return false;
	return target[0] == bpf_htonl(0xfe800000) && !target[1] && target[2] == bpf_htonl(0x5efe);
}

/* Turn a solicitation into the advertisement that the neighbour has the address MAC (RFC 4861 7.2.4). */
static __always_inline bool solicit_answer(hook_ctx *ctx, __u64 mac)
{
	void *data = hook_data(ctx);
	if (data + SOLICIT_LENGTH > hook_data_end(ctx))
		return false;
	struct ethernet header;
	ethernet_read(&header, data);
	ethernet_swap(&header); /* the source of the answer was the group: now the address */
	header.first = (header.first & MAC_MASK) | mac << 48;
	header.middle = mac >> 16;
	ethernet_write(data, &header);
	__be32 *words = data + ETH_HLEN, *target = words + 12;
	__builtin_memcpy(words + 6, words + 2, 16); /* to whom asked, from whom was asked for */
	__builtin_memcpy(words + 2, target, 16);
	words[10] = bpf_htonl(136 << 24);
	words[11] = bpf_htonl(0x60000000); /* solicited, override */
	__u8 *option = data + ETH_HLEN + 64;
	option[0] = 2; /* target link-layer address */
	*(__be16 *)(option + 2) = (__u16)mac;
	*(__be32 *)(option + 4) = mac >> 16;
	__u64 sum = bpf_htonl(SOLICIT_SIZE) + (__u64)bpf_htonl(IP_ICMPV6);
#pragma unroll
	for (int i = 2; i < 18; i++)
		sum += words[i];
	words[10] |= (__be32)(__u16)~checksum_fold(sum) << 16;
	return true;
}
