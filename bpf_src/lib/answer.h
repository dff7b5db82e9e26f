// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Turning a packet into an answer to its sender: an ICMP error as icmp_send() makes it, or a TCP reset as nf_send_reset() does. For frames without
// VLAN tags.

#include "lib/tuple.h"

enum answer_limit {
	ANSWER_QUOTE4 = 548, /* bytes quoted: 576 in all (RFC 1812 4.3.2.3) */
	ANSWER_QUOTE6 = 1232, /* 1280 in all (RFC 4443 2.4 c) */
	ANSWER_ROOM4 = 28, /* IP and ICMP header */
	ANSWER_ROOM6 = 48,
	ANSWER_TTL = 64,
	ANSWER_TOS = 0x1e, /* of the packet's that an error keeps */
	ANSWER_CONTROL = 0xc0, /* internetwork control, which errors have (RFC 1812 4.3.2.5) */
};

/* An IP header without options in registers. */
struct answer_header {
	__be32 saddr[4]; /* IPv4 in the first word */
	__be32 daddr[4];
	__u16 payload; /* bytes behind it */
	__u8 tos;
	__u8 protocol;
	__u8 ttl;
};

/* What an ICMP error says. */
struct answer_error {
	__u32 info; /* 32 bits of the ICMP header */
	__u8 type; /* in the numbers of its IP version */
	__u8 code;
	__u8 tos;
	__u8 ttl;
};

/* The sum of the pseudo header. */
static __always_inline __u64 answer_pseudo(const struct answer_header *header, const bool ipv6)
{
	__u64 sum = (__u64)bpf_htons(header->payload) + bpf_htons(header->protocol);
#pragma unroll
	for (int i = 0; i < (ipv6 ? 4 : 1); i++)
		sum += (__u64)header->saddr[i] + header->daddr[i];
	return sum;
}

/* Write the header at AT, which was checked. Gives the sum of its words. */
static __always_inline __u64 answer_write(void *at, const struct answer_header *header, const bool ipv6)
{
	__be32 *words = at;
	if (ipv6) {
		__be32 first = bpf_htonl(6 << 28 | (__u32)header->tos << 20);
		__be32 second = bpf_htonl((__u32)header->payload << 16 | (__u32)header->protocol << 8 | header->ttl);
		__u64 sum = (__u64)first + second;
		words[0] = first;
		words[1] = second;
#pragma unroll
		for (int i = 0; i < 4; i++) {
			words[i + 2] = header->saddr[i];
			words[i + 6] = header->daddr[i];
			sum += (__u64)header->saddr[i] + header->daddr[i];
		}
		return sum;
	}
	__be32 first = bpf_htonl(0x45 << 24 | (__u32)header->tos << 16 | (__u16)(header->payload + 20));
	__be32 second = bpf_htonl(TUPLE_DF);
	__be32 third = bpf_htonl((__u32)header->ttl << 24 | (__u32)header->protocol << 16);
	__u16 check = ~checksum_fold((__u64)first + second + third + (__u64)header->saddr[0] + (__u64)header->daddr[0]);
	words[0] = first;
	words[1] = second;
	words[2] = third | (__u32)check << 16;
	words[3] = header->saddr[0];
	words[4] = header->daddr[0];
	return 0;
}

/* Is the packet one that is answered (RFC 1122 3.2.2, RFC 4443 2.4 e)? */
static __always_inline bool answer_allowed(hook_ctx *ctx, const struct tuple_view *view)
{
	const __u8 *data = hook_data(ctx);
	const __u8 *source = (const __u8 *)view->tuple.saddr, *dest = (const __u8 *)view->tuple.daddr;
	const __be32 *words = view->tuple.saddr;
	if (view->kind != TUPLE_FLOW || view->network != ETH_HLEN)
		return false;
	if ((void *)data + ETH_HLEN > hook_data_end(ctx) || data[0] & 1)
		return false;
	if (view->version == 6)
		return source[0] != 0xff && dest[0] != 0xff && (words[0] | words[1] | words[2] | words[3]);
	return source[0] && source[0] < 224 && dest[0] < 224;
}

/* Where the packet's checksum of TCP or UDP is that the device may be about to fill in; 0 for none. */
static __always_inline __u32 answer_check(const struct tuple_view *view)
{
	return view->protocol == IP_TCP ? view->transport + 16 : view->protocol == IP_UDP ? view->transport + 6 : 0;
}

/* Sum up the quote of LENGTH bytes, which begins ROOM bytes behind where the packet began. A checksum in it that the device below is going to fill in
 * is replaced by one that comes out as it stands: else the device would change what the ICMP checksum covers. It fills in c = ~(c + REST) of what it
 * covers, so that 2 * c = ~REST, and 0x8000 is the inverse of 2 modulo 0xffff. */
static __always_inline bool answer_sum(hook_ctx *ctx, const struct tuple_view *view, const __u32 room, __u32 length,
				       bool pending, __u64 *sum)
{
	void *data = hook_data(ctx), *end = hook_data_end(ctx);
	__u32 begin = view->network + room, transport = view->transport + room, header = transport - begin;
	__u64 rest = 0;
	if (header > length || !checksum_bytes(data, end, transport, length - header, &rest))
		return false;
	__sum16 *check = data + ((answer_check(view) + room) & TUPLE_MASK);
	if (pending && (void *)(check + 1) <= end) {
		rest += (__u16) ~*check;
		*check = checksum_fold((__u64)(__u16)~checksum_fold(rest) * 0x8000) ?: 0xffff;
		rest += *check;
	}
	*sum += rest;
	return checksum_bytes(data, end, begin, header, sum);
}

/* The answer that quotes the packet, FROM an address of VIEW's version. LONGER: the packet is known to be longer than what is quoted. */
static __always_inline bool answer_quoting(hook_ctx *ctx, const struct tuple_view *view,
					   const struct answer_error *error, const __be32 *from, const bool longer,
					   const bool ipv6)
{
	const __u32 room = ipv6 ? ANSWER_ROOM6 : ANSWER_ROOM4, most = ipv6 ? ANSWER_QUOTE6 : ANSWER_QUOTE4;
	const __u32 icmp = ETH_HLEN + room - 8;
	__u32 length = hook_length(ctx) - ETH_HLEN, check = answer_check(view);
	bool pending = check && !view->checksum_zero && hook_checksum_pending(ctx, check);
	struct ethernet ethernet;
	if (!hook_is_gso(ctx) && view->length < length)
		length = view->length;
	if (longer || length > most)
		length = most;
	struct answer_header header = {
		.payload = 8 + length,
		.tos = error->tos,
		.ttl = error->ttl,
		.protocol = ipv6 ? IP_ICMPV6 : IP_ICMP,
	};
	__builtin_memcpy(header.saddr, from, 16);
	__builtin_memcpy(header.daddr, view->tuple.saddr, 16);
	void *data = hook_data(ctx);
	if (data + ETH_HLEN > hook_data_end(ctx))
		return false;
	ethernet_read(&ethernet, data);
	ethernet_swap(&ethernet);
	if (!hook_trim(ctx, ETH_HLEN + length) || !hook_open(ctx, room, 0))
		return false;
	hook_pull(ctx, ETH_HLEN + room + length);
	__u64 sum = (error->type | (__u32)error->code << 8) + (__u64)bpf_htonl(error->info) +
		    (ipv6 ? answer_pseudo(&header, true) : 0);
	if (!answer_sum(ctx, view, room, length, pending, &sum))
		return false;
	data = hook_data(ctx);
	if (data + icmp + 8 > hook_data_end(ctx))
		return false;
	__u16 folded = ~checksum_fold(sum);
	*(__be32 *)(data + icmp) = error->type | (__u32)error->code << 8 | (__u32)folded << 16;
	*(__be32 *)(data + icmp + 4) = bpf_htonl(error->info);
	ethernet_write(data, &ethernet);
	__u64 frame = answer_write(data + ETH_HLEN, &header, ipv6);
	if (ipv6)
		frame += (__u16)~checksum_fold(answer_pseudo(&header, true));
	hook_set_frame(ctx, frame);
	return true;
}

/* Turn the packet into an ICMP error about it: TYPE and CODE in the numbers of its IP version, FROM an address, or 0 for where it was going. False
 * if none is sent about such a packet, or if it failed, which leaves a frame that is to be dropped. */
static __always_inline bool answer_unreachable(hook_ctx *ctx, const struct tuple_view *view, __u8 type, __u8 code,
					       __u32 info, const __be32 *from)
{
	__be32 source[4];
	struct answer_error error = { .info = info, .type = type, .code = code, .ttl = ANSWER_TTL };
	if (!answer_allowed(ctx, view))
		return false;
	__builtin_memcpy(source, from ? from : view->tuple.daddr, 16);
	if (view->version == 6)
		return answer_quoting(ctx, view, &error, source, false, true);
	error.tos = (view->tos & ANSWER_TOS) | ANSWER_CONTROL;
	return answer_quoting(ctx, view, &error, source, false, false);
}

/* The words of a TCP header that says no more than that the connection is over. */
struct answer_tcp {
	__be32 ports;
	__be32 seq;
	__be32 ack;
	__be32 flags; /* and its length, and no window */
};

/* What the header at AT, of a packet with LENGTH bytes of TCP, is answered with (RFC 9293 3.5.2), or what goes on in its place. */
static __always_inline void answer_tcp_read(const __be32 *at, __u32 length, bool back, struct answer_tcp *tcp)
{
	__u32 flags = bpf_ntohl(at[3]), size = flags >> 28 << 2;
	bool has_ack = flags & 1 << 20;
	tcp->ports = back ? at[0] << 16 | at[0] >> 16 : at[0];
	tcp->seq = back ? (has_ack ? at[2] : 0) : at[1];
	tcp->ack = back ? bpf_htonl(bpf_ntohl(at[1]) + (flags >> 17 & 1) + (flags >> 16 & 1) + length - size) : at[2];
	if (back)
		has_ack = !has_ack;
	if (!has_ack)
		tcp->ack = 0;
	tcp->flags = bpf_htonl(5 << 28 | (has_ack ? 1 << 20 : 0) | 1 << 18);
}

static __always_inline bool answer_reset_as(hook_ctx *ctx, const struct tuple_view *view, bool back, const bool ipv6)
{
	const __u32 size = ipv6 ? 40 : 20, at = ETH_HLEN + size;
	const struct nat_tuple *tuple = &view->tuple;
	struct ethernet ethernet;
	struct answer_tcp tcp;
	struct answer_header header = { .payload = 20, .protocol = IP_TCP, .ttl = ANSWER_TTL };
	if (view->transport != at)
		return false;
	bool pending = hook_checksum_pending(ctx, at + 16);
	void *data = hook_data(ctx);
	if (data + at + 20 > hook_data_end(ctx))
		return false;
	answer_tcp_read(data + at, view->length - size, back, &tcp);
	ethernet_read(&ethernet, data);
	if (back)
		ethernet_swap(&ethernet);
	__builtin_memcpy(header.saddr, back ? tuple->daddr : tuple->saddr, 16);
	__builtin_memcpy(header.daddr, back ? tuple->saddr : tuple->daddr, 16);
	if (!hook_trim(ctx, at + 20))
		return false;
	hook_pull(ctx, at + 20);
	data = hook_data(ctx);
	if (data + at + 20 > hook_data_end(ctx))
		return false;
	__u64 pseudo = answer_pseudo(&header, ipv6);
	__u16 check = checksum_fold(pseudo);
	if (!pending)
		check = ~checksum_fold(pseudo + tcp.ports + tcp.seq + tcp.ack + tcp.flags);
	ethernet_write(data, &ethernet);
	__u64 frame = answer_write(data + ETH_HLEN, &header, ipv6) + (__u16)~checksum_fold(pseudo);
	__be32 *words = data + at;
	words[0] = tcp.ports;
	words[1] = tcp.seq;
	words[2] = tcp.ack;
	words[3] = tcp.flags;
	words[4] = check;
	hook_set_frame(ctx, frame);
	return true;
}

/* Turn a TCP segment into a reset: BACK to its sender, or for its receiver in its place. There is none for a reset, nor for packets with IP
 * options or extension headers. False as above. */
static __always_inline bool answer_reset(hook_ctx *ctx, const struct tuple_view *view, bool back)
{
	const __u8 reset = 4;
	if (!answer_allowed(ctx, view) || view->protocol != IP_TCP || view->tcp_flags & reset || view->first)
		return false;
	return view->version == 6 ? answer_reset_as(ctx, view, back, true) : answer_reset_as(ctx, view, back, false);
}
