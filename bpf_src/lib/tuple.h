// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What tells the packets of one flow from those of another: addresses, and ports or what stands for them, read as nf_conntrack reads them.
//
// Offsets are below TUPLE_MASK, which whoever takes one from a view shows the verifier again. What was read is written to memory at the end:
// a view in a map lets the verifier forget by which of many ways it was read.

#include "lib/checksum.h"

/* A packet's addresses and ports, as one side sends them. */
struct nat_tuple {
	__be32 saddr[4]; /* IPv4 in the first word */
	__be32 daddr[4];
	__be16 sport; /* for ICMP echo the identifier in both; 0 for protocols without ports */
	__be16 dport;
};

enum tuple_limit {
	TUPLE_DF = 0x4000, /* in an IPv4 header: must not be fragmented */
	TUPLE_MASK = 511, /* bits of an offset in the frame */
	TUPLE_FARTHEST = 400, /* a transport header does not begin behind that */
	TUPLE_EXTENSIONS = 4, /* IPv6 extension headers that are looked behind */
	TUPLE_MESSAGE = 2047, /* bytes of an ICMP error up to which its checksum is verified; senders keep to 1280 */
};

enum tuple_kind {
	TUPLE_FLOW = 0, /* the tuple is the packet's */
	TUPLE_ERROR = 1, /* an ICMP error: the packet it quotes tells which flow it is for */
	TUPLE_LATER = 2, /* a later fragment: only the addresses are there */
	TUPLE_OTHER =
		3, /* not IP, cut short, behind too many headers, or ICMP that belongs to no flow, such as neighbour discovery */
};

struct tuple_view {
	struct nat_tuple tuple;
	__be32 id; /* by which fragments find together */
	__u16 network; /* offset of the IP header */
	__u16 transport; /* offset of what follows it and its extension headers */
	__u16 length; /* of the IP packet in bytes, as its header says */
	__u8 version; /* 4 or 6 */
	__u8 protocol;
	__u8 kind; /* enum tuple_kind */
	__u8 first; /* the first of several fragments */
	__u8 df; /* must not be fragmented; with IPv6 always */
	__u8 ttl; /* or hop limit */
	__u8 tos; /* or traffic class */
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 checksum_zero; /* UDP without a checksum */
	__u8 chunk; /* type of an SCTP packet's first chunk */
};

/* What the network header says of what follows. */
struct tuple_walk {
	__u32 transport;
	__u32 stop; /* where the packet ends */
	__be32 id;
	__u32 protocol;
	__u32 first; /* not 0: more fragments follow */
	__u32 later; /* not 0: others went before */
};

/* Is there ICMP of the packet's own IP version in it? */
static __always_inline bool tuple_is_icmp(const struct tuple_view *view)
{
	return view->protocol == (view->version == 6 ? IP_ICMPV6 : IP_ICMP);
}

/* Zero, made from a NUMBER that the verifier does not know so that it does not know this one either. Added to what it knows by each of the
 * ways that lead here, it makes these one for all that follows. */
static __always_inline __u32 tuple_unknown(__u32 number)
{
	__u32 same = number;
	asm volatile("" : "+r"(same));
	return number ^ same;
}

static __always_inline __be32 tuple_ports(const struct nat_tuple *tuple)
{
	return *(const __be32 *)&tuple->sport;
}

static __always_inline bool tuple_ipv4(hook_ctx *ctx, __u32 network, struct tuple_view *view, struct tuple_walk *walk)
{
	const __u32 *words = hook_data(ctx) + network;
	if ((void *)(words + 5) > hook_data_end(ctx))
		return false;
	__u32 first = words[0], second = words[1], third = words[2], header = (first & 15) * 4;
	/* In whole words: what is read back in larger pieces than it was written in has to wait. */
	__u64 *tuple = (__u64 *)&view->tuple;
	tuple[0] = words[3];
	tuple[1] = 0;
	tuple[2] = words[4];
	tuple[3] = 0;
	view->version = 4;
	view->tos = first >> 8;
	view->length = bpf_ntohs(first >> 16);
	view->ttl = third;
	view->df = !!(second & bpf_htons(TUPLE_DF) << 16);
	walk->id = second & 0xffff;
	walk->protocol = third >> 8 & 0xff;
	walk->transport = network + header;
	walk->first = second & bpf_htons(0x2000) << 16; /* RFC 791 3.1 */
	walk->later = second & bpf_htons(0x1fff) << 16;
	return (first & 0xf0) == 0x40 && header >= 20;
}

static __always_inline bool tuple_is_extension(__u32 header)
{
	const __u64 known = 1ULL << IP_HOP_BY_HOP | 1ULL << IP_ROUTING | 1ULL << IP_FRAGMENT |
			    1ULL << IP_AUTHENTICATION | 1ULL << IP_DESTINATION;
	return header < 64 && known >> (header & 63) & 1;
}

/* Walk the extension headers (RFC 8200 4). False if there are too many, or they end early. */
static __always_inline bool tuple_extensions(hook_ctx *ctx, struct tuple_walk *walk)
{
	__u32 transport = walk->transport, header = walk->protocol, later = 0, first = 0;
	hook_pull(ctx, TUPLE_FARTHEST);
	void *data = hook_data(ctx), *end = hook_data_end(ctx);
#pragma unroll
	for (int i = 0; i < TUPLE_EXTENSIONS; i++) {
		const __u8 *extension = data + (transport & TUPLE_MASK);
		if (later || !tuple_is_extension(header))
			break;
		if (transport > TUPLE_FARTHEST || (void *)(extension + 8) > end)
			return false;
		/* Authentication (RFC 4302) counts its length in 4 bytes less 2, the others in 8 bytes less 1. */
		__u32 size = (extension[1] + 1) * 8, unknown = tuple_unknown(*(const __u16 *)extension);
		if (header == IP_AUTHENTICATION)
			size = (extension[1] + 2) * 4;
		if (header == IP_FRAGMENT) { /* offset in the upper 13 bits, then "more" */
			__be16 place = *(const __be16 *)(extension + 2);
			size = 8;
			walk->id = *(const __be32 *)(extension + 4);
			later = place & bpf_htons(0xfff8);
			first = place & bpf_htons(1);
		}
		header = extension[0];
		transport = (transport + size + unknown) & 0xfff;
		later += unknown;
		first += unknown;
	}
	walk->transport = transport;
	walk->protocol = header;
	walk->later = later;
	walk->first = first;
	return later || !tuple_is_extension(header);
}

static __always_inline bool tuple_ipv6(hook_ctx *ctx, __u32 network, struct tuple_view *view, struct tuple_walk *walk)
{
	const void *at = hook_data(ctx) + network;
	if (at + 40 > hook_data_end(ctx))
		return false;
	const __u64 *words = at + 8;
	__u64 *tuple = (__u64 *)&view->tuple, first = *(const __u64 *)at;
	tuple[0] = words[0];
	tuple[1] = words[1];
	tuple[2] = words[2];
	tuple[3] = words[3];
	view->version = 6;
	view->tos = bpf_ntohs(first) >> 4;
	view->length = bpf_ntohs(first >> 32) + 40;
	view->ttl = first >> 56;
	view->df = 1;
	walk->id = 0;
	walk->protocol = first >> 48 & 0xff;
	walk->transport = network + 40;
	walk->first = walk->later = 0;
	if ((first & 0xf0) != 0x60)
		return false;
	return !tuple_is_extension(walk->protocol) || tuple_extensions(ctx, walk);
}

/* What an ICMP message is to flows, by its type. */
static __always_inline enum tuple_kind tuple_icmp_kind(__u8 version, __u8 type)
{
	/* IPv4: unreachable, source quench, redirect, time exceeded, parameter problem; echo, timestamp, information, mask. */
	const __u32 errors4 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 11 | 1 << 12;
	const __u32 queries4 = 1 << 0 | 1 << 8 | 0x3f << 13;
	const __u32 errors6 = 0x1e; /* unreachable, too big, time exceeded, parameter problem */
	__u32 errors = version == 6 ? errors6 : errors4, bit = 1U << (type & 31);
	if (type < 32 && errors & bit)
		return TUPLE_ERROR;
	if (version == 6 ? type == 128 || type == 129 : type < 32 && queries4 & bit)
		return TUPLE_FLOW;
	return TUPLE_OTHER;
}

/* Read the transport header. Of a packet that is QUOTED there need be no more than 8 bytes (RFC 792). */
static __always_inline enum tuple_kind tuple_transport(hook_ctx *ctx, struct tuple_view *view,
						       const struct tuple_walk *walk, const bool quoted)
{
	__u32 protocol = walk->protocol, transport = walk->transport, size = 8;
	bool icmp = protocol == (view->version == 6 ? IP_ICMPV6 : IP_ICMP);
	__be32 *ports = (__be32 *)&view->tuple.sport;
	*ports = 0;
	view->tcp_flags = view->icmp_type = view->icmp_code = view->checksum_zero = view->chunk = 0;
	if (transport > TUPLE_FARTHEST || transport > walk->stop)
		return TUPLE_OTHER;
	if (walk->later)
		return TUPLE_LATER;
	if (!icmp && protocol != IP_TCP && protocol != IP_UDP && protocol != IP_SCTP)
		return TUPLE_FLOW;
	if (!quoted && protocol == IP_TCP)
		size = 20;
	if (!quoted && protocol == IP_SCTP)
		size = 12;
	if (transport + size > walk->stop)
		return TUPLE_OTHER;
	hook_pull(ctx, transport + size);
	const __u8 *at = hook_data(ctx) + (transport & TUPLE_MASK), *end = hook_data_end(ctx);
	if (at + 8 > end)
		return TUPLE_OTHER;
	__u64 head = *(const __u64 *)at;
	if (icmp) {
		view->icmp_type = head;
		view->icmp_code = head >> 8;
		*ports = (head >> 32 & 0xffff) * 0x10001;
		return tuple_icmp_kind(view->version, head);
	}
	*ports = head;
	view->checksum_zero = protocol == IP_UDP && !(head >> 48);
	if (!quoted && protocol == IP_TCP) {
		if (at + 20 > end)
			return TUPLE_OTHER;
		view->tcp_flags = at[13];
	}
	if (!quoted && protocol == IP_SCTP && at + 13 <= end)
		view->chunk = at[12];
	return TUPLE_FLOW;
}

/* Write down what was found of where things are. */
static __always_inline bool tuple_found(struct tuple_view *view, const struct tuple_walk *walk, __u32 network,
					enum tuple_kind kind)
{
	view->id = walk->id;
	view->network = network;
	view->transport = walk->transport;
	view->protocol = walk->protocol;
	view->first = walk->first && !walk->later;
	view->kind = kind;
	asm volatile("" ::: "memory");
	return kind != TUPLE_OTHER;
}

/* Read the packet's headers. False, and TUPLE_OTHER, for what nobody translates. */
static __always_inline bool tuple_read(hook_ctx *ctx, const struct packet *packet, struct tuple_view *view)
{
	struct tuple_walk walk = {};
	__u32 network = (packet->network + tuple_unknown(packet->source)) & TUPLE_MASK;
	const bool ipv6 = packet->ethertype == bpf_htons(ETH_P_IPV6);
	view->kind = TUPLE_OTHER;
	if (!ipv6 && packet->ethertype != bpf_htons(ETH_P_IP))
		return false;
	hook_pull(ctx, network + (ipv6 ? 48 : 28));
	if (!(ipv6 ? tuple_ipv6(ctx, network, view, &walk) : tuple_ipv4(ctx, network, view, &walk)))
		return false;
	/* The length of a frame that the device cuts into pieces may not fit into its header. */
	walk.stop = hook_is_gso(ctx) ? packet->length : network + view->length;
	if (walk.stop > packet->length)
		return false;
	enum tuple_kind kind = tuple_transport(ctx, view, &walk, false);
	if (kind == TUPLE_ERROR && walk.first) /* which the stack puts together first */
		kind = TUPLE_OTHER;
	return tuple_found(view, &walk, network, kind);
}

/* Is the ICMP checksum of an error right? One that is too long to tell counts as right: the receiver will see. */
static __always_inline bool tuple_message_right(hook_ctx *ctx, const struct tuple_view *error)
{
	__u32 at = error->transport & TUPLE_MASK, length = error->length - (error->transport - error->network);
	__u64 sum = 0;
	if (length > TUPLE_MESSAGE)
		return true;
	hook_pull(ctx, at + length);
	if (error->version == 6) {
		const __be32 *words = error->tuple.saddr;
		sum = bpf_htonl(length) + (__u64)bpf_htonl(IP_ICMPV6);
#pragma unroll
		for (int i = 0; i < 8; i++)
			sum += words[i];
	}
	return checksum_bytes(hook_data(ctx), hook_data_end(ctx), at, length, &sum) && checksum_fold(sum) == 0xffff;
}

/* Read the packet that an ICMP error quotes. False if there is none that could be of a flow, or if a checksum is wrong (RFC 5508 4.1): that
 * of the message, or of the quoted IPv4 header. */
static __always_inline bool tuple_read_quoted(hook_ctx *ctx, const struct tuple_view *error, struct tuple_view *quoted)
{
	struct tuple_walk walk = {};
	__u32 network = (error->transport & TUPLE_MASK) + 8;
	const bool ipv6 = error->version == 6;
	quoted->kind = TUPLE_OTHER;
	if (network > TUPLE_FARTHEST || !tuple_message_right(ctx, error))
		return false;
	hook_pull(ctx, network + (ipv6 ? 48 : 28));
	if (!(ipv6 ? tuple_ipv6(ctx, network, quoted, &walk) : tuple_ipv4(ctx, network, quoted, &walk)))
		return false;
	walk.stop = error->network + error->length;
	if (!ipv6) {
		__u64 sum = 0;
		__u32 header = (walk.transport - network) & 63;
		hook_pull(ctx, network + header);
		if (!checksum_bytes(hook_data(ctx), hook_data_end(ctx), network, header, &sum) ||
		    checksum_fold(sum) != 0xffff)
			return false;
	}
	enum tuple_kind kind = tuple_transport(ctx, quoted, &walk, true);
	if (kind == TUPLE_ERROR) /* there are no errors about errors (RFC 1122 3.2.2) */
		kind = TUPLE_OTHER;
	return tuple_found(quoted, &walk, network, kind);
}
