// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A packet, parsed once. PYDP_DEPTH says how deep the stages of this program need it: 2 addresses and tags,
// 3 the network header, 4 the transport header as well.
//
// Every step checks its end against data_end before it reads; a header that ends early sets PACKET_TRUNCATED and leaves what
// lies behind it at zero. Only a frame too short for Ethernet and its VLAN tag is refused altogether.

#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>

#define MAC_MASK 0xffffffffffffULL /* six bytes, the first one lowest */
#define VID_MASK 0x0fff
#define IPV6_EXTENSIONS \
	8 /* extension headers we look behind, as many as hosts must accept (RFC 8200 4.1) and two more */
#define HEADER_ROOM 192 /* bytes of headers that are made readable for depth 3 and 4 */

/* IANA protocol numbers. Not from linux/in.h: that brings the kernel's socket headers along and doubles the time to compile. */
enum ip_protocol {
	IP_HOP_BY_HOP = 0,
	IP_ICMP = 1,
	IP_TCP = 6,
	IP_UDP = 17,
	IP_ROUTING = 43,
	IP_FRAGMENT = 44,
	IP_AUTHENTICATION = 51,
	IP_ICMPV6 = 58,
	IP_DESTINATION = 60,
	IP_SCTP = 132,
};

enum packet_flag {
	PACKET_FRAGMENT = 1, /* part of a fragmented IP packet */
	PACKET_LATER_FRAGMENT = 2, /* and not its first part: no transport header */
	PACKET_TRUNCATED = 4, /* a header ended early, or says so of itself */
};

struct packet {
	__u64 dest; /* MAC address, first byte lowest */
	__u64 source;
	__u32 length; /* of the frame, with a tag only where it is in the frame */
	__u16 tags; /* VLAN tags, 0 to 2 */
	__u16 tci; /* of the outermost tag */
	__be16 tag_protocol;
	__u16 inner_tci;
	__be16 ethertype; /* behind the tags */
	__u8 flags; /* enum packet_flag */
	__u8 protocol; /* transport, behind options and extension headers */
	__u16 network; /* offset of the network header */
	__u16 transport; /* offset of the transport header, 0 for none */
	__be32 saddr[4]; /* IPv4 in the first word */
	__be32 daddr[4];
	__be16 sport; /* TCP, UDP, SCTP; for ICMP echo the identifier in both */
	__be16 dport;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 pad;
	__u32 egress; /* set by a stage: device to leave by */
	__u32 peer; /* set by a stage: that device's peer may be handed the frame at once */
	__u32 companion; /* set by a stage that punts: device of the kernel that is to go on with it, not the stack */
	__u32 turn; /* set by a stage: enum turn */
	__u32 tunnel; /* set by a stage: index of the tunnel it came by or is for, plus one */
	__u32 left; /* to be left to the kernel: ask packet_is_left() */
};

/* Other ways to leave than out of the device that a stage names, on tc only. */
enum turn {
	TURN_BACK = 1, /* into that device, as if it had come in there */
	TURN_ROUTED = 2, /* out of it, to the next hop that the kernel finds */
};

/* An Ethernet header in registers. */
struct ethernet {
	__u64 first; /* destination, and two bytes of the source */
	__u32 middle;
	__be16 ethertype;
};

static __always_inline void ethernet_read(struct ethernet *header, const void *at)
{
	header->first = *(__u64 *)at;
	header->middle = *(__u32 *)(at + 8);
	header->ethertype = *(__be16 *)(at + 12);
}

static __always_inline void ethernet_write(void *at, const struct ethernet *header)
{
	*(__u64 *)at = header->first;
	*(__u32 *)(at + 8) = header->middle;
	*(__be16 *)(at + 12) = header->ethertype;
}

/* The header of an answer: from destination to source. */
static __always_inline void ethernet_swap(struct ethernet *header)
{
	__u64 dest = header->first & MAC_MASK, source = header->first >> 48 | (__u64)header->middle << 16;
	header->first = source | dest << 48;
	header->middle = dest >> 16;
}

/* Is the packet the kernel's, whose path is being compared (lib/compare.h)? A stage whose packets the kernel can do without it learns from one, and
 * leaves it (PUNT_COMPARE). */
static __always_inline bool packet_is_left(const struct packet *packet)
{
	return PYDP_COMPARE && packet->left;
}

static __always_inline bool is_tag(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD);
}

/* Is the MAC address one of several receivers? The bit sent first, lowest of the first byte. */
static __always_inline bool is_group(__u64 address)
{
	return address & 1;
}

/* SIZE: of the whole header. */
static __always_inline void parse_ports(struct packet *packet, void *data, void *end, const __u32 size)
{
	__be16 *ports = data + packet->transport;
	if ((void *)ports + size > end)
		packet->flags |= PACKET_TRUNCATED;
	if ((void *)(ports + 2) > end)
		return;
	packet->sport = ports[0];
	packet->dport = ports[1];
}

static __always_inline void parse_icmp(struct packet *packet, void *data, void *end, __u8 request, __u8 reply)
{
	__u8 *icmp = data + packet->transport;
	if ((void *)(icmp + 8) > end) {
		packet->flags |= PACKET_TRUNCATED;
		return;
	}
	packet->icmp_type = icmp[0];
	packet->icmp_code = icmp[1];
	if (icmp[0] == request || icmp[0] == reply)
		packet->sport = packet->dport = *(__be16 *)(icmp + 4);
}

static __always_inline void parse_transport(struct packet *packet, void *data, void *end)
{
	switch (packet->protocol) {
	case IP_TCP:
		parse_ports(packet, data, end, 20);
		if (data + packet->transport + 20 <= end)
			packet->tcp_flags = *(__u8 *)(data + packet->transport + 13);
		break;
	case IP_UDP:
		parse_ports(packet, data, end, 8);
		break;
	case IP_SCTP:
		parse_ports(packet, data, end, 12);
		break;
	case IP_ICMP:
		parse_icmp(packet, data, end, 8, 0);
		break;
	case IP_ICMPV6:
		parse_icmp(packet, data, end, 128, 129);
		break;
	}
}

static __always_inline void parse_ipv4(struct packet *packet, void *data, void *end)
{
	struct iphdr *ip = data + packet->network;
	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5) {
		packet->flags |= PACKET_TRUNCATED;
		return;
	}
	packet->protocol = ip->protocol;
	packet->saddr[0] = ip->saddr;
	packet->daddr[0] = ip->daddr;
	if (ip->frag_off & bpf_htons(0x3fff)) /* more fragments, or not at the start (RFC 791 3.1) */
		packet->flags |= PACKET_FRAGMENT;
	if (ip->frag_off & bpf_htons(0x1fff)) {
		packet->flags |= PACKET_LATER_FRAGMENT;
		return;
	}
	packet->transport = packet->network + ip->ihl * 4;
}

/* Walk the extension headers (RFC 8200 4) to the transport header. */
static __always_inline void parse_ipv6(struct packet *packet, void *data, void *end)
{
	struct ipv6hdr *ip = data + packet->network;
	if ((void *)(ip + 1) > end || ip->version != 6) {
		packet->flags |= PACKET_TRUNCATED;
		return;
	}
	__builtin_memcpy(packet->saddr, &ip->saddr, sizeof(packet->saddr));
	__builtin_memcpy(packet->daddr, &ip->daddr, sizeof(packet->daddr));
	__u32 offset = packet->network + sizeof(*ip);
	__u8 header = ip->nexthdr;

#pragma unroll
	for (int i = 0; i < IPV6_EXTENSIONS; i++) {
		if (header != IP_HOP_BY_HOP && header != IP_ROUTING && header != IP_FRAGMENT &&
		    header != IP_AUTHENTICATION && header != IP_DESTINATION)
			break;
		__u8 *extension = data + offset;
		if (offset > HEADER_ROOM || (void *)(extension + 8) > end) {
			packet->flags |= PACKET_TRUNCATED;
			packet->protocol = header;
			return;
		}
		if (header == IP_FRAGMENT) { /* fragment: offset in the upper 13 bits, then "more" */
			__be16 place = *(__be16 *)(extension + 2);
			if (place & bpf_htons(0xfff9))
				packet->flags |= PACKET_FRAGMENT;
			if (place & bpf_htons(0xfff8)) {
				packet->flags |= PACKET_LATER_FRAGMENT;
				packet->protocol = extension[0];
				return;
			}
			offset += 8;
		} else {
			/* Authentication (RFC 4302) counts its length in 4 bytes less 2, the others in 8 bytes less 1. */
			offset += header == IP_AUTHENTICATION ? (extension[1] + 2) * 4 : (extension[1] + 1) * 8;
		}
		header = extension[0];
	}
	packet->protocol = header;
	packet->transport = offset;
}

static __always_inline void parse_network(hook_ctx *ctx, struct packet *packet)
{
	hook_pull(ctx, HEADER_ROOM);
	void *data = hook_data(ctx), *end = hook_data_end(ctx);
	if (packet->ethertype == bpf_htons(ETH_P_IP))
		parse_ipv4(packet, data, end);
	else if (packet->ethertype == bpf_htons(ETH_P_IPV6))
		parse_ipv6(packet, data, end);
	if (PYDP_DEPTH < 4 || !packet->transport)
		return;
	if (packet->transport <= HEADER_ROOM)
		parse_transport(packet, data, end);
	else
		packet->flags |= PACKET_TRUNCATED;
}

/* Fill PACKET from the frame. False if it is too short for Ethernet and a VLAN tag with two bytes behind it, which skb_vlan_untag()
 * insists on. */
static __always_inline bool parse_packet(hook_ctx *ctx, struct packet *packet)
{
	void *data = hook_data(ctx), *end = hook_data_end(ctx);
	packet->length = hook_length(ctx);
	if (data + ETH_HLEN > end)
		return false;
	packet->dest = *(__u64 *)data & MAC_MASK;
	packet->source = *(__u64 *)(data + ETH_ALEN) & MAC_MASK;
	packet->ethertype = *(__be16 *)(data + 2 * ETH_ALEN);
	packet->tags = hook_outer_tag(ctx, &packet->tag_protocol, &packet->tci);

	__u32 offset = ETH_HLEN;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (!is_tag(packet->ethertype) || packet->tags == 2)
			break;
		__be16 *tag = data + offset;
		if ((void *)(tag + 3) > end) {
			packet->flags |= PACKET_TRUNCATED;
			if (!packet->tags)
				return false;
			break;
		}
		if (packet->tags++) {
			packet->inner_tci = bpf_ntohs(tag[0]);
		} else {
			packet->tag_protocol = packet->ethertype;
			packet->tci = bpf_ntohs(tag[0]);
		}
		packet->ethertype = tag[1];
		offset += 4;
	}
	packet->network = offset;
	if (PYDP_DEPTH > 2)
		parse_network(ctx, packet);
	return true;
}
