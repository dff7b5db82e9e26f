// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Stage ipip: packets of one IP version for networks behind peers, in packets of the same or the other version or in GRE (RFC 2003, RFC 4213
// 3, RFC 2473, RFC 2784, RFC 2890).
//
// There is no tunnel device. The stack routes what is for a peer's networks out of the underlay, where the program on the way out
// encapsulates it, so that MTU, TTL and fragments before that are the stack's business; what comes in from a peer is taken out of its packet
// and goes up the stack as if it had come like that. What comes in by a port of the instance, and what is for one, takes the short way
// where it can. In the adopting form (PYDP_IPIP_ADOPTED) a tunnel device of the kernel has all that does not take it.

#include "lib/flow.h"
#include "lib/hop.h"
#include "lib/outer.h"
#include "lib/inner.h"
#include "lib/path.h"
#include "lib/solicit.h"
#include "lib/table.h"
#include "lib/too_big.h"
#include "lib/tunnel.h"

enum ipip_limit {
	IPIP_PORTS = 256, /* ports of an instance, underlay among them */
	IPIP_PLACES = 4096, /* places in the table of devices */
	IPIP_PEERS = 131072, /* places for peers */
	IPIP_PREFIXES = 1048576, /* networks behind peers */
	IPIP_CACHED = 1024, /* addresses for which a CPU keeps what it found */
	IPIP_LIMIT_SIZE = 8, /* of the tunnel encapsulation limit, which the kernel's ip6tnl sends (RFC 2473 4.1.1) */
	IPIP_HEADERS = 64, /* bytes of the inner packet that are made readable */
	GRE_KEY = 0x2000, /* flag: a key follows (RFC 2890 2) */
};

enum ipip_layout {
	IPIP_GRE_SIZE = PYDP_IPIP_GRE ? (PYDP_IPIP_KEYED ? 8 : 4) : 0,
	IPIP_ROOM = OUTER_SIZE + IPIP_GRE_SIZE, /* bytes between Ethernet header and inner packet */
	IPIP_MAPPED = PYDP_IPIP_INNER6 && !PYDP_TUNNEL_IPV6, /* an IPv6 route cannot lead to the peer: see solicit.h */
};

enum ipip_port_flag {
	IPIP_VETH_PEER = 1, /* a veth whose peer may be handed frames at once */
};

struct ipip_port {
	__u64 mac; /* its own address, first byte lowest */
	__u32 ifindex;
	__u32 flags; /* enum ipip_port_flag */
};

struct ipip_peer {
	__be32 address[4]; /* IPv4 in the first word */
	__u64 owner; /* in struct tunnel_count; 0: nobody is at this place */
};

/* Key of a longest prefix match: an inner address with IPv4 in the first word, of which LENGTH bits count. */
struct ipip_prefix {
	__u32 length;
	__be32 address[4];
};

/* The peer that an inner address is behind, as it was found. */
struct ipip_found {
	__be32 address[4];
	__u32 peer; /* its index plus one, 0 for nobody */
	__u32 valid;
};

/* The next hop to an inner address. */
struct ipip_way {
	__be32 address[4];
	struct hop hop;
};

struct ipip_clock {
	__u64 jiffies; /* when the clock was read */
	__u32 now; /* what it said, in ticks */
	__u32 pad;
};

/* Written by Python. Index: slot. */
BPF_TABLE("array", __u32, struct ipip_port, ipip_ports, IPIP_PORTS);
/* Written by Python. Ports that packets may be sent out of at once, by the lower bits of their ifindex. */
BPF_TABLE("array", __u32, struct ipip_port, ipip_devices, IPIP_PLACES);
/* Written by Python. */
BPF_TABLE("array", __u32, struct ipip_peer, ipip_peers, IPIP_PEERS);
/* Written by Python. Keys are addresses of peers, values their indices. */
BPF_TABLE("array", __u32, struct table_bucket, ipip_known, PYDP_IPIP_KNOWN);
/* Written by Python. Values are indices of peers. */
BPF_F_TABLE("lpm_trie", struct ipip_prefix, __u32, ipip_prefixes, IPIP_PREFIXES, BPF_F_NO_PREALLOC);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct ipip_found, ipip_cache, IPIP_CACHED);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct ipip_way, ipip_ways, IPIP_CACHED);
/* Written by the datapath. Index: that of the peer. */
BPF_TABLE("percpu_array", __u32, struct hop, ipip_hops, IPIP_PEERS);
/* Written by the datapath. Index: that of the peer. */
BPF_TABLE("array", __u32, struct tunnel_path, ipip_paths, IPIP_PEERS);
/* Written by the datapath. Index: that of the peer. */
BPF_TABLE("percpu_array", __u32, struct tunnel_count, ipip_counts, IPIP_PEERS);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct ipip_clock, ipip_clock, 1);

/* The time in ticks; read once a jiffy and CPU, as fdb_now() does it. */
static __always_inline __u32 ipip_now(void)
{
	__u64 jiffies = bpf_jiffies64();
	__u32 zero = 0;
	struct ipip_clock *clock = ipip_clock.lookup(&zero);
	if (!clock)
		return 0;
	if (clock->jiffies != jiffies) {
		clock->now = bpf_ktime_get_coarse_ns() >> 24;
		clock->jiffies = jiffies;
	}
	return clock->now;
}

static __always_inline __be16 ipip_ethertype(const bool ipv6)
{
	return ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
}

static __always_inline bool ipip_same(const __be32 *one, const __be32 *other, const bool ipv6)
{
	__be32 differs = one[0] ^ other[0];
	if (ipv6)
		differs |= (one[1] ^ other[1]) | (one[2] ^ other[2]) | (one[3] ^ other[3]);
	return !differs;
}

static __always_inline void ipip_copy(__be32 *to, const __be32 *from, const bool ipv6)
{
	to[0] = from[0];
	to[1] = ipv6 ? from[1] : 0;
	to[2] = ipv6 ? from[2] : 0;
	to[3] = ipv6 ? from[3] : 0;
}

/* Local end of the tunnels. */
static __always_inline void ipip_local(__be32 *address)
{
	address[0] = PYDP_TUNNEL_LOCAL0;
	address[1] = PYDP_TUNNEL_LOCAL1;
	address[2] = PYDP_TUNNEL_LOCAL2;
	address[3] = PYDP_TUNNEL_LOCAL3;
}

/* The place of an inner address in the maps that a CPU keeps for itself. */
static __always_inline __u32 ipip_place(const __be32 *address)
{
	__u64 key = address[0];
	if (PYDP_IPIP_INNER6)
		key = (address[0] ^ (__u64)address[1] << 32) + (address[2] ^ (__u64)address[3] << 32);
	return table_hash(key) & (IPIP_CACHED - 1);
}

/* The peer that an inner address is behind: its index plus one, or 0. */
static __always_inline __u32 ipip_behind(const __be32 *address)
{
	__u32 place = ipip_place(address);
	struct ipip_found *found = ipip_cache.lookup(&place);
	if (!found)
		return 0;
	if (found->valid && ipip_same(found->address, address, PYDP_IPIP_INNER6))
		return found->peer;
	struct ipip_prefix key = { .length = PYDP_IPIP_INNER6 ? 128 : 32 };
	ipip_copy(key.address, address, PYDP_IPIP_INNER6);
	__u32 *index = ipip_prefixes.lookup(&key);
	ipip_copy(found->address, address, PYDP_IPIP_INNER6);
	found->peer = index ? *index + 1 : 0;
	found->valid = 1;
	return found->peer;
}

/* The peer with this address: its index plus one, or 0. */
static __always_inline __u32 ipip_find(const __be32 *address)
{
	__u64 key = table_key(address, 0, PYDP_TUNNEL_IPV6), hash = table_hash(key);
	__u32 one = hash & (PYDP_IPIP_KNOWN - 1), other = (hash >> 32) & (PYDP_IPIP_KNOWN - 1);
	struct table_bucket *bucket = ipip_known.lookup(&one);
	__u32 found = bucket ? table_value(bucket, key) : 0;
	if (!found) {
		bucket = ipip_known.lookup(&other);
		found = bucket ? table_value(bucket, key) : 0;
	}
	if (!found || !PYDP_TUNNEL_IPV6)
		return found;
	__u32 index = found - 1;
	struct ipip_peer *peer = ipip_peers.lookup(&index);
	return peer && ipip_same(peer->address, address, true) ? found : 0;
}

static __always_inline void ipip_count_sent(__u32 index, __u64 owner, __u32 length)
{
	struct tunnel_count *count = ipip_counts.lookup(&index);
	if (PYDP_COUNTERS && count) {
		tunnel_owned(count, owner);
		count->sent_packets++;
		count->sent_bytes += length;
	}
}

static __always_inline void ipip_count_received(__u32 index, __u64 owner, __u32 length)
{
	struct tunnel_count *count = ipip_counts.lookup(&index);
	if (PYDP_COUNTERS && count) {
		tunnel_owned(count, owner);
		count->received_packets++;
		count->received_bytes += length;
	}
}

// Into the tunnel

/* How an inner packet is to go to a peer. */
struct ipip_out {
	__u32 length; /* of the packet in bytes */
	__u8 df; /* outside */
	__u8 aged; /* its TTL is to be taken one from */
	__u8 there; /* the hop's addresses are to be used */
	__u8 pad;
};

/* Make room for the outer headers. What came out of a tunnel itself, or goes into its second one, cannot be told from one that the device
 * below is to cut up; if it need not, the room alone will do. */
static __always_inline bool ipip_open(hook_ctx *ctx)
{
	const __u64 l3 = PYDP_TUNNEL_IPV6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	const __u64 flags = l3 | (PYDP_IPIP_GRE ? BPF_F_ADJ_ROOM_ENCAP_L4_GRE : 0);
	if (hook_open(ctx, IPIP_ROOM, flags))
		return true;
	return HOOK_OPENS_IP && PYDP_IPIP_INNER6 == PYDP_TUNNEL_IPV6 && !hook_is_gso(ctx) &&
	       hook_open(ctx, IPIP_ROOM, 0);
}

/* Put the packet into one for PEER. */
static __always_inline bool ipip_wrap(hook_ctx *ctx, const struct ipip_peer *peer, struct hop *hop,
				      const struct inner *inner, const struct ipip_out *out)
{
	__be32 local[4];
	ipip_local(local);
	struct outer outer = {
		.saddr = local,
		.daddr = peer->address,
		.payload = IPIP_GRE_SIZE + out->length,
		.id = hop->id,
		.tos = outer_tos(PYDP_IPIP_FLAGS, PYDP_IPIP_TOS, inner),
		.ttl = outer_ttl(PYDP_IPIP_FLAGS, PYDP_IPIP_TTL, PYDP_TUNNEL_TTL, inner),
		.protocol = PYDP_IPIP_PROTOCOL,
		.df = out->df,
	};
	hop->id += hook_gso_segments(ctx);
	struct ethernet header = hop->header;
	if (hook_data(ctx) + ETH_HLEN > hook_data_end(ctx))
		return false;
	if (!out->there)
		ethernet_read(&header, hook_data(ctx));
	header.ethertype = ipip_ethertype(PYDP_TUNNEL_IPV6);
	if (!ipip_open(ctx))
		return false;
	void *data = hook_data(ctx), *packet = data + ETH_HLEN + IPIP_ROOM;
	if (packet + (PYDP_IPIP_INNER6 ? 40 : 20) > hook_data_end(ctx))
		return false;
	ethernet_write(data, &header);
	outer_write(data + ETH_HLEN, &outer);
	if (PYDP_IPIP_GRE) {
		__be16 *gre = data + ETH_HLEN + OUTER_SIZE;
		gre[0] = PYDP_IPIP_KEYED ? bpf_htons(GRE_KEY) : 0;
		gre[1] = ipip_ethertype(PYDP_IPIP_INNER6);
		if (PYDP_IPIP_KEYED)
			*(__be32 *)(gre + 2) = bpf_htonl(PYDP_IPIP_KEY);
	}
	if (out->aged)
		inner_age(packet, PYDP_IPIP_INNER6);
	return true;
}

/* A packet that is on its way out of the underlay and too long for the path to its peer: answered, also where it does not forbid to cut
 * it up. Cut up outside it would be lost at a peer that has no tunnel device, which nobody puts it together for. */
static __always_inline enum verdict ipip_too_big(hook_ctx *ctx, struct packet *packet, __u32 mtu)
{
	if (too_big_answers(ctx, packet, mtu - IPIP_ROOM, true)) {
		if (!too_big_reply(ctx, packet, mtu - IPIP_ROOM))
			return DROP_MTU;
		packet->egress = PYDP_IPIP_UNDERLAY;
		packet->turn = TURN_BACK;
		return FORWARD_REPLY;
	}
	return DROP_MTU;
}

/* On the way out of the underlay. What is for a peer never leaves as it is. */
static __always_inline enum verdict ipip_leaving(hook_ctx *ctx, struct packet *packet)
{
	if (packet->ethertype != ipip_ethertype(PYDP_IPIP_INNER6) || packet->tags)
		return PASS_UNCLAIMED;
	hook_pull(ctx, ETH_HLEN + IPIP_HEADERS);
	if (IPIP_MAPPED && solicit_ours(ctx)) {
		packet->egress = PYDP_IPIP_UNDERLAY;
		packet->turn = TURN_BACK;
		return solicit_answer(ctx, SOLICIT_MAC) ? FORWARD_REPLY : DROP_INNER;
	}
	struct inner_packet read = {};
	if (!inner_packet_read(hook_data(ctx) + ETH_HLEN, hook_data_end(ctx), PYDP_IPIP_INNER6, &read))
		return PASS_UNCLAIMED;
	__u32 found = ipip_behind(read.daddr), index = found - 1, now = ipip_now();
	if (!found)
		return PASS_UNCLAIMED;
	struct ipip_peer *peer = ipip_peers.lookup(&index);
	struct hop *hop = ipip_hops.lookup(&index);
	struct tunnel_path *path = ipip_paths.lookup(&index);
	if (!peer || !hop || !path)
		return DROP_INNER;
	__be32 local[4];
	ipip_local(local);
	hop_renew(ctx, hop, peer->address, local, PYDP_IPIP_UNDERLAY, PYDP_TUNNEL_IPV6, PYDP_IPIP_PROTOCOL, now);
	struct inner inner = {};
	inner_read(ctx, packet, &inner);
	__u32 device_mtu = hop->ready && hop->mtu < PYDP_TUNNEL_MTU ? hop->mtu : PYDP_TUNNEL_MTU;
	__u32 mtu = path_mtu(path, device_mtu, now), length = inner_length(ctx, packet, &inner) + IPIP_ROOM;
	struct ipip_out out = { .length = packet->length - ETH_HLEN, .df = outer_df(PYDP_IPIP_FLAGS, &inner) };
	if (length > mtu)
		return ipip_too_big(ctx, packet, mtu);
	out.there = hop->ready;
	if (!ipip_wrap(ctx, peer, hop, &inner, &out))
		return DROP_INNER;
	ipip_count_sent(index, peer->owner, out.length);
	packet->egress = PYDP_IPIP_UNDERLAY;
	if (hop->ready && hop->ifindex != PYDP_IPIP_UNDERLAY) {
		packet->egress = hop->ifindex;
		return FORWARD_ENCAP;
	}
	if (hop->ready || !IPIP_MAPPED)
		return PASS_ENCAP;
	packet->turn = TURN_ROUTED;
	return FORWARD_ENCAP;
}

/* In by a port: what is for a peer goes there without the stack, which has the rest. */
static __always_inline enum verdict ipip_from_port(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	struct ipip_port *in = ipip_ports.lookup(&slot);
	if (!in || packet->ethertype != ipip_ethertype(PYDP_IPIP_INNER6) || packet->tags || packet->dest != in->mac)
		return PASS_UNCLAIMED;
	hook_pull(ctx, ETH_HLEN + IPIP_HEADERS);
	struct inner_packet read = {};
	if (!inner_packet_read(hook_data(ctx) + ETH_HLEN, hook_data_end(ctx), PYDP_IPIP_INNER6, &read))
		return PASS_UNCLAIMED;
	__u32 found = ipip_behind(read.daddr), index = found - 1, now = ipip_now();
	struct ipip_peer *peer = found ? ipip_peers.lookup(&index) : 0;
	struct hop *hop = peer ? ipip_hops.lookup(&index) : 0;
	struct tunnel_path *path = hop ? ipip_paths.lookup(&index) : 0;
	if (!peer || !hop || !path)
		return PASS_UNCLAIMED;
	if (!read.plain || !read.right || !inner_source_sane(&read, PYDP_IPIP_INNER6) ||
	    (!hook_is_gso(ctx) && (read.length < read.header || read.length > packet->length - ETH_HLEN)))
		return PUNT_HEADER;
	if (read.ttl <= 1)
		return PUNT_TTL;
	__be32 local[4];
	ipip_local(local);
	enum hop_answer answer =
		hop_find(ctx, hop, peer->address, local, in->ifindex, PYDP_TUNNEL_IPV6, PYDP_IPIP_PROTOCOL, now, true);
	if (answer != HOP_READY)
		return PUNT_NEIGHBOUR;
	struct inner inner = {};
	inner_read(ctx, packet, &inner);
	inner.ttl--;
	/* The padding of a short frame stays behind the packet. */
	struct ipip_out out = { .length = hook_is_gso(ctx) ? packet->length - ETH_HLEN : read.length,
				.df = outer_df(PYDP_IPIP_FLAGS, &inner),
				.aged = 1,
				.there = 1 };
	__u32 piece = hook_is_gso(ctx) ? inner_length(ctx, packet, &inner) : read.length;
	if (piece + IPIP_ROOM > path_mtu(path, hop->mtu, now))
		return PUNT_TOO_BIG;
	if (!ipip_wrap(ctx, peer, hop, &inner, &out))
		return PUNT_ERROR;
	ipip_count_sent(index, peer->owner, out.length);
	packet->egress = hop->ifindex;
	return FORWARD_ENCAP;
}

// Out of the tunnel

/* The outer header of a packet for the local end of the tunnels. */
struct ipip_outer {
	__be32 saddr[4];
	__u32 length; /* bytes behind the IP header, as it says */
	__u8 tos;
	__u8 protocol;
	__u8 limit; /* an option of IPIP_LIMIT_SIZE bytes follows it, and is counted in LENGTH */
	__u8 pad;
};

/* Read the header at AT if the packet is for the local end and of a protocol that is of interest: FOR_US says so. Those that are not whole or
 * not plain are the kernel's. */
static __always_inline enum verdict ipip_outer_read(void *at, void *end, struct ipip_outer *outer, bool *for_us)
{
	__be32 local[4];
	ipip_local(local);
	if (at + OUTER_SIZE > end)
		return PASS_UNCLAIMED;
	if (PYDP_TUNNEL_IPV6) {
		struct ipv6hdr *ip = at;
		if (!ipip_same(at + 24, local, true))
			return PASS_UNCLAIMED;
		outer->protocol = ip->nexthdr;
		outer->length = bpf_ntohs(ip->payload_len);
		outer->tos = bpf_ntohs(*(__be16 *)at) >> 4;
		__builtin_memcpy(outer->saddr, &ip->saddr, 16);
		__u8 *option = at + OUTER_SIZE;
		if (outer->protocol == IP_FRAGMENT && (void *)(option + 1) <= end && option[0] == PYDP_IPIP_PROTOCOL)
			return PUNT_FRAGMENT;
		if (outer->protocol == IP_DESTINATION && (void *)(option + IPIP_LIMIT_SIZE) <= end && !option[1]) {
			outer->protocol = option[0];
			outer->limit = 1;
		}
	} else {
		struct iphdr *ip = at;
		if (ip->daddr != local[0] || (ip->protocol != PYDP_IPIP_PROTOCOL && ip->protocol != IP_ICMP))
			return PASS_UNCLAIMED;
		outer->protocol = ip->protocol;
		if (ip->frag_off & bpf_htons(0x3fff))
			return ip->protocol == IP_ICMP ? PASS_UNCLAIMED : PUNT_FRAGMENT;
		if (ip->version != 4 || ip->ihl != 5 || checksum_fold(checksum_ipv4(ip)) != 0xffff)
			return ip->protocol == IP_ICMP ? PASS_UNCLAIMED : PUNT_HEADER;
		outer->length = bpf_ntohs(ip->tot_len) - 20;
		outer->saddr[0] = ip->saddr;
		outer->tos = ip->tos;
	}
	*for_us = outer->protocol == PYDP_IPIP_PROTOCOL ||
		  (outer->protocol == (PYDP_TUNNEL_IPV6 ? IP_ICMPV6 : IP_ICMP) && !outer->limit);
	return PASS_UNCLAIMED;
}

/* A router's message about the path: take note of one that quotes a packet to a peer. The stack gets it as well. */
static __always_inline void ipip_told(hook_ctx *ctx)
{
	hook_pull(ctx, ETH_HLEN + 2 * OUTER_SIZE + 8);
	void *icmp = hook_data(ctx) + ETH_HLEN + OUTER_SIZE, *quoted = icmp + 8;
	if (quoted + OUTER_SIZE > hook_data_end(ctx))
		return;
	__be32 local[4], daddr[4] = {};
	__u32 mtu;
	ipip_local(local);
	if (PYDP_TUNNEL_IPV6) {
		struct ipv6hdr *ip = quoted;
		mtu = bpf_ntohl(*(__be32 *)(icmp + 4));
		if (*(__u8 *)icmp != 2 || ip->nexthdr != PYDP_IPIP_PROTOCOL || !ipip_same(quoted + 8, local, true))
			return;
		__builtin_memcpy(daddr, &ip->daddr, 16);
	} else {
		struct iphdr *ip = quoted;
		mtu = bpf_ntohs(*(__be16 *)(icmp + 6));
		if (*(__be16 *)icmp != bpf_htons(3 << 8 | 4) || ip->protocol != PYDP_IPIP_PROTOCOL ||
		    ip->saddr != local[0])
			return;
		daddr[0] = ip->daddr;
	}
	__u32 found = ipip_find(daddr), index = found - 1;
	struct tunnel_path *path = found ? ipip_paths.lookup(&index) : 0;
	if (path)
		path_note(path, mtu, PYDP_TUNNEL_IPV6, ipip_now());
}

/* Is the GRE header at AT that of this tunnel? Gives PASS_UNCLAIMED for one that is; checksums, numbers and other passengers are the
 * kernel's. */
static __always_inline enum verdict ipip_check_gre(const __be16 *gre)
{
	if (gre[0] & ~bpf_htons(GRE_KEY) || gre[1] != ipip_ethertype(PYDP_IPIP_INNER6))
		return PUNT_HEADER;
	if (gre[0] != (PYDP_IPIP_KEYED ? bpf_htons(GRE_KEY) : 0))
		return PUNT_VTEP;
	if (PYDP_IPIP_KEYED && *(__be32 *)(gre + 2) != bpf_htonl(PYDP_IPIP_KEY))
		return PUNT_VTEP;
	return PASS_UNCLAIMED;
}

/* May this packet, whose destination is BEHIND a peer, have come from the one FOUND? Gives PASS_UNCLAIMED if so. */
static __always_inline enum verdict ipip_check_inner(const struct inner_packet *inner, const struct ipip_outer *outer,
						     __u32 found, __u32 behind)
{
	const bool alike = PYDP_IPIP_INNER6 == PYDP_TUNNEL_IPV6;
	__be32 local[4];
	ipip_local(local);
	/* Unwrapped once: nothing in here is for this end of the tunnel again. */
	if (alike && inner->protocol == PYDP_IPIP_PROTOCOL && ipip_same(inner->daddr, local, PYDP_TUNNEL_IPV6))
		return DROP_INNER;
	if (PYDP_IPIP_SOURCE_CHECK && !(alike && ipip_same(inner->saddr, outer->saddr, PYDP_TUNNEL_IPV6)) &&
	    ipip_behind(inner->saddr) != found)
		return DROP_SPOOFED;
	if ((alike && ipip_same(inner->daddr, outer->saddr, PYDP_TUNNEL_IPV6)) || behind == found)
		return DROP_LOOP;
	return PASS_UNCLAIMED;
}

/* The way to the port that the inner packet can be sent out of at once; 0 if the routing is to have it. */
static __always_inline struct ipip_way *ipip_way(hook_ctx *ctx, const struct inner_packet *inner, __u32 length,
						 __u32 now)
{
	if (!PYDP_IPIP_DIRECT || inner->ttl <= 1 || !inner->plain || !inner->right ||
	    !inner_source_sane(inner, PYDP_IPIP_INNER6))
		return 0;
	__u32 place = ipip_place(inner->daddr);
	struct ipip_way *way = ipip_ways.lookup(&place);
	if (!way)
		return 0;
	if (!way->hop.checked || !ipip_same(way->address, inner->daddr, PYDP_IPIP_INNER6)) {
		ipip_copy(way->address, inner->daddr, PYDP_IPIP_INNER6);
		way->hop.ready = 0;
		way->hop.shown = now;
	}
	enum hop_answer answer = hop_find(ctx, &way->hop, inner->daddr, inner->saddr, PYDP_IPIP_UNDERLAY,
					  PYDP_IPIP_INNER6, inner->protocol, now, true);
	return answer == HOP_READY && length <= way->hop.mtu ? way : 0;
}

/* The port of that ifindex; 0 if there is none. */
static __always_inline struct ipip_port *ipip_port(__u32 ifindex)
{
	__u32 place = ifindex & (PYDP_IPIP_PLACES - 1);
	struct ipip_port *port = ipip_devices.lookup(&place);
	return port && port->ifindex == ifindex ? port : 0;
}

/* Take ROOM bytes of outer headers off, and put HEADER in front. */
static __always_inline bool ipip_unwrap(hook_ctx *ctx, __u32 room, const struct ethernet *header)
{
	const __u64 flags = PYDP_IPIP_INNER6 == PYDP_TUNNEL_IPV6 ? 0 : PYDP_IPIP_INNER6 ? HOOK_NOW_IPV6 : HOOK_NOW_IPV4;
	if (!hook_close(ctx, room, flags))
		return false;
	void *data = hook_data(ctx);
	if (data + ETH_HLEN > hook_data_end(ctx))
		return false;
	ethernet_write(data, header);
	return true;
}

/* The length of an inner packet behind ROOM bytes of outer headers, or of one of the pieces that it is cut into. */
static __always_inline __u32 ipip_piece(hook_ctx *ctx, const struct inner_packet *inner, __u32 room)
{
	if (!hook_is_gso(ctx))
		return inner->length;
	const __u32 header = PYDP_IPIP_INNER6 ? 40 : 20;
	__u8 *tcp = hook_data(ctx) + ETH_HLEN + room + header;
	bool is_tcp = inner->protocol == IP_TCP && (void *)(tcp + 13) <= hook_data_end(ctx);
	return header + (is_tcp ? (tcp[12] >> 4) * 4 : 8) + hook_gso_size(ctx);
}

/* From one peer to another: the packet stays in its outer headers, which are written anew, as a device that is to cut it up could not be told
 * twice what it is. False if the stack is to try. */
static __always_inline bool ipip_relay(hook_ctx *ctx, struct packet *packet, const struct inner_packet *read,
				       __u32 behind, __u16 payload, __u8 ecn, __u32 now)
{
	__u32 index = behind - 1;
	struct ipip_peer *peer = behind ? ipip_peers.lookup(&index) : 0;
	struct hop *hop = peer ? ipip_hops.lookup(&index) : 0;
	struct tunnel_path *path = hop ? ipip_paths.lookup(&index) : 0;
	if (!peer || !hop || !path || read->ttl <= 1 || !read->plain || !read->right ||
	    !inner_source_sane(read, PYDP_IPIP_INNER6))
		return false;
	__be32 local[4];
	ipip_local(local);
	enum hop_answer answer = hop_find(ctx, hop, peer->address, local, PYDP_IPIP_UNDERLAY, PYDP_TUNNEL_IPV6,
					  PYDP_IPIP_PROTOCOL, now, !hook_is_gso(ctx));
	if (!hop->ready || (answer != HOP_READY && !hook_is_gso(ctx)) ||
	    ipip_piece(ctx, read, IPIP_ROOM) + IPIP_ROOM > path_mtu(path, hop->mtu, now))
		return false;
	struct inner inner = { .tos = (read->tos & ~ECN_MASK) | ecn, .ttl = read->ttl - 1, .df = read->df };
	struct outer outer = {
		.saddr = local,
		.daddr = peer->address,
		.payload = payload,
		.id = hop->id,
		.tos = outer_tos(PYDP_IPIP_FLAGS, PYDP_IPIP_TOS, &inner),
		.ttl = outer_ttl(PYDP_IPIP_FLAGS, PYDP_IPIP_TTL, PYDP_TUNNEL_TTL, &inner),
		.protocol = PYDP_IPIP_PROTOCOL,
		.df = outer_df(PYDP_IPIP_FLAGS, &inner),
	};
	struct ethernet header = hop->header;
	void *data = hook_data(ctx), *at = data + ETH_HLEN + IPIP_ROOM;
	if (at + (PYDP_IPIP_INNER6 ? 40 : 20) > hook_data_end(ctx))
		return false;
	hop->id += hook_gso_segments(ctx);
	header.ethertype = ipip_ethertype(PYDP_TUNNEL_IPV6);
	ethernet_write(data, &header);
	outer_write(data + ETH_HLEN, &outer);
	inner_set_ecn(at, PYDP_IPIP_INNER6, ecn);
	inner_age(at, PYDP_IPIP_INNER6);
	packet->egress = hop->ifindex;
	ipip_count_sent(index, peer->owner, read->length);
	return true;
}

/* Send the inner packet on, or leave it to the stack; ROOM bytes of outer headers are in front of it, ECN is what it becomes. */
static __always_inline enum verdict ipip_deliver(hook_ctx *ctx, struct packet *packet, const struct inner_packet *inner,
						 const struct ipip_outer *outer, __u32 behind, __u32 room, __u8 ecn)
{
	__u32 now = ipip_now();
	if (!PYDP_IPIP_ADOPTED && room == IPIP_ROOM && ipip_relay(ctx, packet, inner, behind, outer->length, ecn, now))
		return FORWARD_ENCAP;
	struct ipip_way *way = ipip_way(ctx, inner, ipip_piece(ctx, inner, room), now);
	struct ipip_port *out = way ? ipip_port(way->hop.ifindex) : 0;
	if (PYDP_IPIP_ADOPTED && !out)
		return PUNT_ROUTE;
	void *data = hook_data(ctx), *at = data + ETH_HLEN + room;
	if (at + (PYDP_IPIP_INNER6 ? 40 : 20) > hook_data_end(ctx))
		return PUNT_TRUNCATED;
	if (ecn != (inner->tos & ECN_MASK))
		inner_set_ecn(at, PYDP_IPIP_INNER6, ecn);
	struct ethernet header;
	ethernet_read(&header, data);
	if (way && out) {
		inner_age(at, PYDP_IPIP_INNER6);
		header = way->hop.header;
		packet->egress = out->ifindex;
		packet->peer = out->flags & IPIP_VETH_PEER;
	}
	header.ethertype = ipip_ethertype(PYDP_IPIP_INNER6);
	if (!ipip_unwrap(ctx, room, &header))
		return PUNT_ERROR;
	return out ? FORWARD_DECAP : PASS_DECAP;
}

/* In by the underlay. */
static __always_inline enum verdict ipip_arriving(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	struct ipip_outer outer = {};
	struct inner_packet inner = {};
	bool for_us = false;
	if (packet->ethertype != ipip_ethertype(PYDP_TUNNEL_IPV6) || packet->tags)
		return PASS_UNCLAIMED;
	hook_pull(ctx, ETH_HLEN + OUTER_SIZE + IPIP_LIMIT_SIZE);
	enum verdict verdict = ipip_outer_read(hook_data(ctx) + ETH_HLEN, hook_data_end(ctx), &outer, &for_us);
	if (!for_us)
		return verdict;
	struct ipip_port *in = ipip_ports.lookup(&slot);
	if (outer.protocol != PYDP_IPIP_PROTOCOL) {
		if (in && packet->dest == in->mac)
			ipip_told(ctx);
		return PASS_UNCLAIMED;
	}
	if (!in || packet->dest != in->mac)
		return PUNT_ADDRESS;
	__u32 room = IPIP_ROOM + (outer.limit ? IPIP_LIMIT_SIZE : 0);
	hook_pull(ctx, ETH_HLEN + IPIP_ROOM + IPIP_LIMIT_SIZE + IPIP_HEADERS);
	void *at = hook_data(ctx) + ETH_HLEN + room, *end = hook_data_end(ctx);
	if ((packet->length < ETH_HLEN + OUTER_SIZE + outer.length && !hook_is_gso(ctx)) || at > end)
		return PUNT_TRUNCATED;
	verdict = PYDP_IPIP_GRE ? ipip_check_gre(at - IPIP_GRE_SIZE) : PASS_UNCLAIMED;
	if (verdict != PASS_UNCLAIMED)
		return verdict;
	__u32 found = ipip_find(outer.saddr), index = found - 1;
	struct ipip_peer *peer = found ? ipip_peers.lookup(&index) : 0;
	if (!peer)
		return PUNT_VTEP;
	if (!inner_packet_read(at, end, PYDP_IPIP_INNER6, &inner))
		return DROP_INNER;
	if (hook_is_gso(ctx))
		inner.length = packet->length - ETH_HLEN - room;
	else if (inner.length < inner.header || OUTER_SIZE + outer.length < room + inner.length)
		return DROP_INNER;
	__u32 behind = ipip_behind(inner.daddr);
	verdict = ipip_check_inner(&inner, &outer, found, behind);
	if (verdict != PASS_UNCLAIMED)
		return verdict;
	__u8 ecn = inner_ecn(outer.tos, inner.tos);
	if (ecn == ECN_LOST)
		return DROP_ECN;
	verdict = ipip_deliver(ctx, packet, &inner, &outer, behind, room, ecn);
	if (verdict == FORWARD_DECAP || verdict == PASS_DECAP || verdict == FORWARD_ENCAP)
		ipip_count_received(index, peer->owner, inner.length);
	return verdict;
}

static __always_inline enum verdict ipip_stage(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	__u64 role = STAGE_CONSTANT(STAGE_IPIP, CONSTANT_ROLE);
	if (PYDP_EGRESS)
		return HOOK_OPENS_IP ? ipip_leaving(ctx, packet) : PASS_UNCLAIMED;
	enum verdict verdict = role == ROLE_UNDERLAY ? ipip_arriving(ctx, packet, slot) :
						       ipip_from_port(ctx, packet, slot);
	/* What is wrong with a packet, the kernel's device may know better. */
	return PYDP_IPIP_ADOPTED && verdict >= CLASS_DROP ? PUNT_ROUTE : verdict;
}
