// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The outer IP header of a tunnel: what it says, by the policies of `ip link add type vxlan` and ip_tunnel, and writing it.
// PYDP_TUNNEL_IPV6 says which IP it is.

#include "lib/outer_header.h"

enum outer_limit {
	OUTER_SIZE = PYDP_TUNNEL_IPV6 ? 40 : 20, /* of the outer IP header in bytes */
	ECN_MASK = 3, /* bits of TOS or traffic class (RFC 3168 5) */
	ECN_ECT1 = 1,
	ECN_ECT0 = 2,
	ECN_CE = 3,
	IP_DONT_FRAGMENT = OUTER_DONT_FRAGMENT,
};

enum tunnel_flag {
	TUNNEL_TTL_INHERIT = 1, /* TTL of the inner packet */
	TUNNEL_TOS_INHERIT = 2, /* TOS of the inner packet */
	TUNNEL_DF_SET = 4, /* outer DF always */
	TUNNEL_DF_INHERIT = 8, /* outer DF as the inner packet has it, IPv6 counting as set */
	TUNNEL_CHECKSUM = 16, /* outer UDP checksum */
};

/* What of an inner packet the outer header depends on. */
struct inner {
	__u8 version; /* 4, 6, or 0 for what is not IP */
	__u8 tos; /* or traffic class */
	__u8 ttl; /* or hop limit */
	__u8 df; /* must not be fragmented; the kernel does not look for that behind a VLAN tag */
	__u8 protocol; /* next header */
};

/* Read them from behind PACKET's Ethernet header. What ends early is not IP, as for pskb_inet_may_pull(). */
static __always_inline void inner_read(hook_ctx *ctx, const struct packet *packet, struct inner *inner)
{
	void *at = hook_data(ctx) + packet->network, *end = hook_data_end(ctx);
	struct iphdr *ip = at;
	struct ipv6hdr *ip6 = at;
	if (packet->ethertype == bpf_htons(ETH_P_IP) && (void *)(ip + 1) <= end) {
		inner->version = 4;
		inner->tos = ip->tos;
		inner->ttl = ip->ttl;
		inner->protocol = ip->protocol;
		inner->df = !packet->tags && ip->frag_off & bpf_htons(IP_DONT_FRAGMENT);
	} else if (packet->ethertype == bpf_htons(ETH_P_IPV6) && (void *)(ip6 + 1) <= end) {
		inner->version = 6;
		inner->tos = bpf_ntohs(*(__be16 *)at) >> 4;
		inner->ttl = ip6->hop_limit;
		inner->protocol = ip6->nexthdr;
		inner->df = !packet->tags;
	}
}

/* TOS outside: that of the policy with the inner ECN, congestion hidden from where it was not met (RFC 6040 4.1, compatibility
 * mode of INET_ECN_encapsulate). */
static __always_inline __u8 outer_tos(__u32 flags, __u8 tos, const struct inner *inner)
{
	__u8 ecn = inner->tos & ECN_MASK;
	if (flags & TUNNEL_TOS_INHERIT)
		tos = inner->tos;
	return (tos & ~ECN_MASK) | (ecn == ECN_CE ? ECN_ECT0 : ecn);
}

/* TTL 0 stands for the system's default, which Python wrote in FALLBACK. */
static __always_inline __u8 outer_ttl(__u32 flags, __u8 ttl, __u8 fallback, const struct inner *inner)
{
	if (flags & TUNNEL_TTL_INHERIT)
		ttl = inner->ttl;
	return ttl ? ttl : fallback;
}

static __always_inline bool outer_df(__u32 flags, const struct inner *inner)
{
	return flags & TUNNEL_DF_SET || (flags & TUNNEL_DF_INHERIT && inner->df);
}

/* Must a packet's congestion mark outside be carried inside (RFC 6040 4.2)? That is rare, and the kernel does it. */
static __always_inline bool outer_marked(__u8 tos)
{
	return (tos & ECN_MASK) == ECN_CE || (tos & ECN_MASK) == ECN_ECT1;
}

/* Write OUTER_SIZE bytes at AT, which were checked. */
static __always_inline void outer_write(void *at, const struct outer *outer)
{
	outer_header_write(at, outer, PYDP_TUNNEL_IPV6);
}

/* The length that counts for the MTU of the path: of one piece, from behind the inner Ethernet header on, tags included. */
static __always_inline __u32 inner_length(hook_ctx *ctx, const struct packet *packet, const struct inner *inner)
{
	__u32 size = hook_gso_size(ctx);
	if (!size)
		return packet->length - ETH_HLEN;
	void *at = hook_data(ctx) + packet->network, *end = hook_data_end(ctx);
	__u32 header = inner->version == 6 ? 40 : 20;
	__u8 *tcp = at + header;
	bool is_tcp = inner->protocol == IP_TCP && (void *)(tcp + 13) <= end;
	return header + (is_tcp ? (tcp[12] >> 4) * 4 : 8) + size;
}
