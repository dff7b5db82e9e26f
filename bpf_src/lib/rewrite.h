// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Giving packets other addresses and ports, as nf_nat does it: in the headers, in every checksum that covers them, and in what ICMP errors quote.
//
// Checksums are updated (RFC 1624), never computed: what was wrong stays wrong, for its receiver to see. All that is changed in the packet is
// written first, since helpers of tc invalidate its pointers.

#include "lib/crc32c.h"
#include "lib/tuple.h"

enum rewrite_change {
	REWRITE_TTL = 0xfffe, /* what one less does to the word that TTL and protocol are in */
	REWRITE_HOP_LIMIT = 0xfeff, /* the same for next header and hop limit */
};

/* What COUNT words change a sum by that go from OLD to NEW. */
static __always_inline __u64 rewrite_change(const __be32 *old, const __be32 *new, const int count)
{
	__u64 sum = 0;
#pragma unroll
	for (int i = 0; i < count; i++)
		sum += (__u64)(__be32)~old[i] + new[i];
	return sum;
}

/* By how much the addresses change. */
static __always_inline __u64 rewrite_addresses(const struct nat_tuple *from, const struct nat_tuple *to, __u8 version)
{
	if (version == 6)
		return rewrite_change(from->saddr, to->saddr, 4) + rewrite_change(from->daddr, to->daddr, 4);
	return rewrite_change(from->saddr, to->saddr, 1) + rewrite_change(from->daddr, to->daddr, 1);
}

/* Write the addresses of TO into the IP header at NETWORK, by which they change by CHANGE. AGE takes one from its TTL. */
static __always_inline bool rewrite_network(hook_ctx *ctx, __u32 network, __u8 version, const struct nat_tuple *to,
					    __u64 change, bool age)
{
	void *at = hook_data(ctx) + (network & TUPLE_MASK), *end = hook_data_end(ctx);
	if (version == 6) {
		__be32 *words = at + 8;
		if (at + 40 > end)
			return false;
		if (age)
			((__u8 *)at)[7]--;
#pragma unroll
		for (int i = 0; i < 4; i++)
			words[i] = to->saddr[i];
#pragma unroll
		for (int i = 0; i < 4; i++)
			words[i + 4] = to->daddr[i];
		return true;
	}
	if (at + 20 > end)
		return false;
	/* TTL, protocol, checksum and source in one store. */
	__u32 word = *(__u32 *)(at + 8), check = word >> 16;
	if (age) {
		change += REWRITE_TTL;
		word--;
	}
	check = (__u16)~checksum_fold((__u64)(__u16)~check + change);
	*(__u64 *)(at + 8) = (word & 0xffff) | check << 16 | (__u64)to->saddr[0] << 32;
	*(__be32 *)(at + 16) = to->daddr[0];
	return true;
}

/* Write PORTS (source and destination, as the tuple has them) into the transport header at TRANSPORT. */
static __always_inline bool rewrite_ports(hook_ctx *ctx, __u32 transport, __be32 ports)
{
	__be32 *at = hook_data(ctx) + (transport & TUPLE_MASK);
	if ((void *)(at + 1) > hook_data_end(ctx))
		return false;
	*at = ports;
	return true;
}

/* Write the identifier of an ICMP query. */
static __always_inline bool rewrite_identifier(hook_ctx *ctx, __u32 transport, __be16 identifier)
{
	__be16 *at = hook_data(ctx) + (transport & TUPLE_MASK);
	if ((void *)(at + 3) > hook_data_end(ctx))
		return false;
	at[2] = identifier;
	return true;
}

/* SCTP: a CRC over the whole packet, in which the ports are and the addresses are not. It follows from how it was and how they change. One of 0 is
 * yet to be filled in. SUM gets what the words change by. Of a packet in fragments nobody knows the length. */
static __always_inline bool rewrite_sctp(hook_ctx *ctx, const struct tuple_view *view, __be32 from, __be32 to,
					 __u64 *sum)
{
	__u32 *header = hook_data(ctx) + (view->transport & TUPLE_MASK);
	if (from == to)
		return true;
	if (view->first || (void *)(header + 3) > hook_data_end(ctx))
		return false;
	__u32 old = header[2], new = old;
	__u16 length = view->length - (view->transport - view->network);
	if (old)
		new = old ^ crc32c_shift(from ^ to, length);
	header[0] = to;
	header[2] = new;
	*sum += (__u64)(__u32)~from + to + (__u32)~old + new;
	return true;
}

/* Write the ports, or what stands for them, and bring the transport's checksum up to date. SUM gets what changes in the packet without a
 * checksum in it that makes up for that. */
static __always_inline bool rewrite_transport(hook_ctx *ctx, const struct tuple_view *view, const struct nat_tuple *to,
					      __u64 addresses, __u64 *sum)
{
	__be32 from_ports = tuple_ports(&view->tuple), ports = tuple_ports(to);
	__u32 transport = view->transport;
	__u64 words = (__u64)(__be32)~from_ports + ports;
	if (view->protocol == IP_TCP)
		return rewrite_ports(ctx, transport, ports) &&
		       hook_fix_transport(ctx, transport + 16, addresses, words, false);
	if (view->protocol == IP_UDP) {
		if (!rewrite_ports(ctx, transport, ports))
			return false;
		if (!view->checksum_zero)
			return hook_fix_transport(ctx, transport + 6, addresses, words, true);
		*sum += words;
		return true;
	}
	if (tuple_is_icmp(view)) {
		words = (__u64)(__be16)~view->tuple.sport + to->sport;
		return rewrite_identifier(ctx, transport, to->sport) &&
		       hook_fix_transport(ctx, transport + 2, view->version == 6 ? addresses : 0, words, false);
	}
	return view->protocol != IP_SCTP || rewrite_sctp(ctx, view, from_ports, ports, sum);
}

/* What hook_fix_frame() is to be told of new addresses, and of one that was taken from the hop limit. With IPv4 the header's checksum makes
 * up for that. With IPv6 that of the transport protocol does, if there is one, but bpf_l4_csum_replace() takes every packet for IPv4 (before
 * BPF_F_IPV6, Linux 6.16) and has already told the hook the opposite. */
static __always_inline __u64 rewrite_left(__u8 version, __u64 addresses, bool age)
{
	if (version != 6)
		return 0;
	return addresses + (age ? REWRITE_HOP_LIMIT : 0);
}

/* Give the packet of VIEW (TUPLE_FLOW, or TUPLE_LATER, which has addresses only) the addresses and ports of TO. AGE takes one from its TTL, which
 * the caller has seen to be more than 1. False leaves a packet that is to be dropped. */
static __always_inline bool rewrite(hook_ctx *ctx, const struct tuple_view *view, const struct nat_tuple *to, bool age)
{
	__u64 addresses = rewrite_addresses(&view->tuple, to, view->version);
	__u64 sum = rewrite_left(view->version, addresses, age);
	if (!rewrite_network(ctx, view->network, view->version, to, addresses, age))
		return false;
	asm volatile("" ::: "memory"); /* the verifier may forget the version: one way from here on */
	if (view->kind == TUPLE_FLOW && !rewrite_transport(ctx, view, to, addresses, &sum))
		return false;
	hook_fix_frame(ctx, sum);
	return true;
}

/* Bring the quoted checksum at OFFSET up to date where it is in the quote, which ends at STOP. SUM gets what it changes by. */
static __always_inline void rewrite_quoted_check(hook_ctx *ctx, __u32 offset, __u32 stop, __u64 change,
						 const bool zero_is_none, __u64 *sum)
{
	__sum16 *check = hook_data(ctx) + (offset & 0xfff);
	if (offset + 2 > stop || (void *)(check + 1) > hook_data_end(ctx))
		return;
	__sum16 old = *check, new = ~checksum_fold((__u64)(__u16)~old + change);
	if (zero_is_none && !old)
		return;
	if (zero_is_none && !new)
		new = 0xffff;
	*check = new;
	*sum += (__u64)(__u16)~old + new;
}

/* Rewrite the transport header that an error quotes, up to STOP. SUM gets what the message's words change by. */
static __always_inline bool rewrite_quoted(hook_ctx *ctx, const struct tuple_view *quoted, const struct nat_tuple *to,
					   __u64 addresses, __u32 stop, __u64 *sum)
{
	__be32 from_ports = tuple_ports(&quoted->tuple), ports = tuple_ports(to);
	__u32 transport = quoted->transport;
	__u64 words = (__u64)(__be32)~from_ports + ports;
	if (tuple_is_icmp(quoted)) {
		words = (__u64)(__be16)~quoted->tuple.sport + to->sport;
		*sum += words;
		rewrite_quoted_check(ctx, transport + 2, stop, words + (quoted->version == 6 ? addresses : 0), false,
				     sum);
		return rewrite_identifier(ctx, transport, to->sport);
	}
	if (quoted->protocol == IP_SCTP && transport + 12 <= stop)
		return rewrite_sctp(ctx, quoted, from_ports, ports, sum);
	if (quoted->protocol != IP_TCP && quoted->protocol != IP_UDP && quoted->protocol != IP_SCTP)
		return true;
	*sum += words;
	if (quoted->protocol == IP_TCP)
		rewrite_quoted_check(ctx, transport + 16, stop, addresses + words, false, sum);
	else if (quoted->protocol == IP_UDP)
		rewrite_quoted_check(ctx, transport + 6, stop, addresses + words, true, sum);
	return rewrite_ports(ctx, transport, ports);
}

/* Give an ICMP error the addresses of OUTER_TO, and the packet it quotes the addresses and ports of QUOTED_TO (RFC 5508 4.2). */
static __always_inline bool rewrite_error(hook_ctx *ctx, const struct tuple_view *error,
					  const struct tuple_view *quoted, const struct nat_tuple *outer_to,
					  const struct nat_tuple *quoted_to, bool age)
{
	const bool ipv6 = error->version == 6;
	__u64 outer = rewrite_addresses(&error->tuple, outer_to, error->version);
	__u64 inner = rewrite_addresses(&quoted->tuple, quoted_to, error->version);
	__u32 stop = error->network + error->length;
	/* With IPv4 the quoted header's own checksum makes up for its addresses. */
	__u64 sum = ipv6 ? inner : 0;
	if (!rewrite_network(ctx, error->network, error->version, outer_to, outer, age) ||
	    !rewrite_network(ctx, quoted->network, error->version, quoted_to, inner, false))
		return false;
	if (quoted->kind == TUPLE_FLOW && !rewrite_quoted(ctx, quoted, quoted_to, inner, stop, &sum))
		return false;
	if (!hook_fix_transport(ctx, error->transport + 2, ipv6 ? outer : 0, sum, false))
		return false;
	hook_fix_frame(ctx, rewrite_left(error->version, outer, age));
	return true;
}
