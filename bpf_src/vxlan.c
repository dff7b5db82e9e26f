// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Stage vxlan: ports of this host and VTEPs elsewhere as one learning segment per VNI (RFC 7348), as a kernel bridge with a vxlan port is.
//
// Known unicast is done here: from a port to a VTEP, from a VTEP to a port, between ports. Everything else is the kernel's, which has the
// whole of the protocol: in the standalone form a vxlan device made for it, the companion, takes what is to be copied to several VTEPs, to be
// fragmented, or has no next hop yet, with the VTEP in the tunnel metadata; and what comes in and is not plain arrives there once the stack
// is through with it. In the adopting form (PYDP_VXLAN_ADOPTED) these are the kernel's own vxlan devices and their bridges.

#define FDB_STAGE STAGE_VXLAN
#include "lib/fdb.h"
#include "lib/fdb_control.h"
#include "lib/flow.h"
#include "lib/hop.h"
#include "lib/neighbour.h"
#include "lib/outer.h"
#include "lib/table.h"
#include "lib/too_big.h"
#include "lib/tunnel.h"
#include "lib/whole.h"

enum vxlan_limit {
	VXLAN_PORTS = 256, /* ports of an instance, underlay and companion among them */
	VXLAN_SEGMENTS = 4096, /* VNIs of an instance */
	VXLAN_VTEPS = 32768, /* pairs of VTEP and VNI */
	VXLAN_NEIGHBOURS = 65536, /* neighbours that are known beforehand */
	VXLAN_GUESTS = 4096, /* such pairs that nobody named, and that are believed all the same */
};

enum vxlan_layout {
	VXLAN_FLAGS = 0x08000000, /* first word of the header: the VNI is valid, all else is 0 (RFC 7348 5) */
	VXLAN_ROOM = OUTER_SIZE + 16 + ETH_HLEN, /* bytes between the outer Ethernet header and the inner packet */
	VXLAN_FIRST = ETH_HLEN + VXLAN_ROOM, /* offset of the inner packet */
	VXLAN_HEADERS = ETH_HLEN + 60, /* of an inner packet: what is looked at on the way out */
};

enum vxlan_port_flag {
	VXLAN_PRESENT = 1, /* the slot is in use */
	VXLAN_PEER = 2, /* a veth whose peer may be handed frames at once */
	VXLAN_PUNT = 4, /* everything that arrives on it is the kernel's */
	VXLAN_LOCAL_LEARNING = 8, /* sources are learned on it */
};

struct vxlan_port {
	__u32 ifindex;
	__u32 max_length; /* longest frame that may leave, in bytes, a VLAN tag not counted */
	__u32 segment;
	__u32 flags; /* enum vxlan_port_flag */
	__u64 mac; /* its own address, first byte lowest */
};

struct vxlan_segment {
	__u32 vni;
	__u32 flags; /* enum tunnel_flag */
	__u8 tos;
	__u8 ttl; /* 0 for the default */
	__u16 low; /* source ports: from here */
	__u16 high; /* up to here, not included */
	__u16 vtep_flags; /* enum vxlan_vtep_flag of VTEPs that nobody named, 0 if they are not believed */
	__u32 first; /* VTEPs that get copies: the first of them in vxlan_replicas */
	__u32 count; /* and how many */
	__u64 members[4]; /* bit per slot: ports of the segment */
};

/* A VTEP as one segment sees it, with all that is needed to send to it. */
struct vxlan_vtep {
	__be32 address[4]; /* IPv4 in the first word */
	__u64 owner; /* in struct tunnel_count: a number of its own */
	__u32 segment;
	__u32 vni;
	__u32 tunnel; /* enum tunnel_flag */
	__u8 tos;
	__u8 ttl; /* 0 for the default */
	__u16 low; /* source ports: from here */
	__u16 high; /* up to here, not included */
	__u16 flags; /* enum vxlan_vtep_flag */
};

enum vxlan_vtep_flag {
	VTEP_PRESENT = 1, /* the index is in use */
	VTEP_GROUP = 2, /* a multicast group: nothing comes from it */
	VTEP_LEARNING = 4, /* sources behind it are learned */
};

/* A VTEP of a VNI, or a neighbour in a segment. */
struct vxlan_name {
	__be32 address[4]; /* IPv4 in the first word */
	__u32 vni; /* or number of the segment */
};

/* Written by Python. Index: slot. */
BPF_TABLE("array", __u32, struct vxlan_port, vxlan_ports, VXLAN_PORTS);
/* Written by Python. */
BPF_TABLE("array", __u32, struct vxlan_segment, vxlan_segments, VXLAN_SEGMENTS);
/* Written by Python. */
BPF_TABLE("array", __u32, struct vxlan_vtep, vxlan_vteps, VXLAN_VTEPS);
/* Written by Python: indices of VTEPs, those of a segment side by side. */
BPF_TABLE("array", __u32, __u32, vxlan_replicas, VXLAN_VTEPS);
/* Written by Python. Keys are addresses and VNIs of VTEPs, values their indices; with address 0, the number of a segment that believes others. */
BPF_TABLE("array", __u32, struct table_bucket, vxlan_known, PYDP_VXLAN_KNOWN);
/* Written by the datapath: VTEPs that nobody named. */
BPF_TABLE("array", __u32, struct vxlan_vtep, vxlan_guests, VXLAN_GUESTS);
/* Written by the datapath: their places. */
BPF_TABLE("hash", struct vxlan_name, __u32, vxlan_names, VXLAN_GUESTS);
/* Written by the datapath: how many there are. */
BPF_TABLE("array", __u32, __u64, vxlan_census, 1);
/* Written by the datapath. Index: that of the VTEP; guests come behind those that were named. */
BPF_TABLE("percpu_array", __u32, struct hop, vxlan_hops, VXLAN_VTEPS);
/* Written by the datapath. Index: that of the VTEP. */
BPF_TABLE("percpu_array", __u32, struct tunnel_count, vxlan_counts, VXLAN_VTEPS);
/* Written by Python: MAC addresses of neighbours that are known beforehand, first byte lowest. */
BPF_TABLE("hash", struct vxlan_name, __u64, vxlan_neighbours, VXLAN_NEIGHBOURS);
/* Written by Python: vxlan_copies(), so that its loops are verified once. */
BPF_PROG_ARRAY(vxlan_tails, 1);

enum vxlan_note {
	VXLAN_NOTE_DEVICE = 0, /* ifindex of the port the frame arrived on, 0 if it came from a VTEP */
	VXLAN_NOTE_SEGMENT = 1, /* its segment */
	VXLAN_NOTE_LENGTH = 2, /* its length where an MTU counts, 0 for what is cut up below */
	VXLAN_NOTE_KEEP = 3, /* not 0: the host gets it, too */
};

static __always_inline bool vxlan_has(const __u64 *slots, __u32 slot)
{
	return slots[(slot >> 6) & 3] & (1ULL << (slot & 63));
}

/* 01:80:c2:00:00:0x, addressed to bridges themselves (IEEE 802.1Q table 8-1). */
static __always_inline bool vxlan_link_local(__u64 address)
{
	return (address & 0xf0ffffffffffULL) == 0x0000c28001ULL;
}

/* The VTEP with this index. */
static __always_inline struct vxlan_vtep *vxlan_vtep(__u32 index)
{
	__u32 guest = index - PYDP_VXLAN_VTEPS;
	if (PYDP_VXLAN_ANY_SOURCE && index >= PYDP_VXLAN_VTEPS)
		return vxlan_guests.lookup(&guest);
	return vxlan_vteps.lookup(&index);
}

static __always_inline void vxlan_count_sent(const struct vxlan_vtep *vtep, __u32 index, __u32 length)
{
	struct tunnel_count *count = PYDP_COUNTERS ? vxlan_counts.lookup(&index) : 0;
	if (count) {
		tunnel_owned(count, vtep->owner);
		count->sent_packets++;
		count->sent_bytes += length;
	}
}

static __always_inline void vxlan_count_received(const struct vxlan_vtep *vtep, __u32 index, __u32 length)
{
	struct tunnel_count *count = PYDP_COUNTERS ? vxlan_counts.lookup(&index) : 0;
	if (count) {
		tunnel_owned(count, vtep->owner);
		count->received_packets++;
		count->received_bytes += length;
	}
}

/* What Python wrote for ADDRESS and VNI, plus one, or 0. */
static __always_inline __u32 vxlan_known_value(const __be32 *address, __u32 vni)
{
	__u64 key = table_key(address, vni, PYDP_TUNNEL_IPV6), hash = table_hash(key);
	__u32 one = hash & (PYDP_VXLAN_KNOWN - 1), other = (hash >> 32) & (PYDP_VXLAN_KNOWN - 1);
	struct table_bucket *bucket = vxlan_known.lookup(&one);
	__u32 found = bucket ? table_value(bucket, key) : 0;
	if (found)
		return found;
	bucket = vxlan_known.lookup(&other);
	return bucket ? table_value(bucket, key) : 0;
}

/* The VTEP that ADDRESS and VNI belong to, with its INDEX, or null. */
static __always_inline struct vxlan_vtep *vxlan_find(const __be32 *address, __u32 vni, __u32 *index)
{
	__u32 found = vxlan_known_value(address, vni);
	*index = found - 1;
	struct vxlan_vtep *vtep = found ? vxlan_vteps.lookup(index) : 0;
	if (vtep && PYDP_TUNNEL_IPV6) /* the key of IPv6 is a hash of the address */
		if ((vtep->address[0] ^ address[0]) | (vtep->address[1] ^ address[1]) |
		    (vtep->address[2] ^ address[2]) | (vtep->address[3] ^ address[3]))
			vtep = 0;
	if (vtep || !PYDP_VXLAN_ANY_SOURCE)
		return vtep;
	struct vxlan_name name = { .vni = vni };
	__builtin_memcpy(name.address, address, 16);
	__u32 *guest = vxlan_names.lookup(&name);
	if (!guest)
		return 0;
	*index = *guest;
	return vxlan_vtep(*index);
}

/* A VTEP that nobody named: enter it, if its segment believes such and there is room. Two CPUs that do so at once waste a place. */
static __always_inline struct vxlan_vtep *vxlan_welcome(const __be32 *address, __u32 vni, __u32 *index)
{
	const __be32 nobody[4] = {};
	__u32 zero = 0, number = vxlan_known_value(nobody, vni), segment_number = number - 1;
	struct vxlan_segment *segment = number ? vxlan_segments.lookup(&segment_number) : 0;
	__u64 *census = vxlan_census.lookup(&zero);
	if (!segment || !census || segment->vni != vni || *census >= VXLAN_GUESTS)
		return 0;
	__u32 guest = __sync_fetch_and_add(census, 1);
	struct vxlan_vtep *vtep = vxlan_guests.lookup(&guest);
	if (!vtep)
		return 0;
	struct vxlan_name name = { .vni = vni };
	__builtin_memcpy(name.address, address, 16);
	__builtin_memcpy(vtep->address, address, 16);
	vtep->owner = table_key(address, vni, PYDP_TUNNEL_IPV6);
	vtep->segment = segment_number;
	vtep->vni = vni;
	vtep->tunnel = segment->flags;
	vtep->tos = segment->tos;
	vtep->ttl = segment->ttl;
	vtep->low = segment->low;
	vtep->high = segment->high;
	vtep->flags = segment->vtep_flags;
	*index = PYDP_VXLAN_VTEPS + guest;
	vxlan_names.insert(&name, index);
	return vtep;
}

/* Local end of the tunnels. */
static __always_inline void vxlan_local(__be32 *address)
{
	address[0] = PYDP_TUNNEL_LOCAL0;
	address[1] = PYDP_TUNNEL_LOCAL1;
	address[2] = PYDP_TUNNEL_LOCAL2;
	address[3] = PYDP_TUNNEL_LOCAL3;
}

/* The metadata by which the companion encapsulates: what the outer header would get here, but for the VTEP's address.
 * Returns the flags that go with it. */
static __always_inline __u64 vxlan_key(struct bpf_tunnel_key *key, const struct vxlan_vtep *vtep,
				       const struct inner *inner)
{
	__be32 local[4];
	__u64 flags = PYDP_TUNNEL_IPV6 ? BPF_F_TUNINFO_IPV6 : 0;
	vxlan_local(local);
	key->tunnel_id = vtep->vni;
	key->tunnel_tos = vtep->tunnel & TUNNEL_TOS_INHERIT ? inner->tos : vtep->tos;
	key->tunnel_ttl =
		vtep->flags & VTEP_GROUP && !vtep->ttl ? 1 : outer_ttl(vtep->tunnel, vtep->ttl, PYDP_TUNNEL_TTL, inner);
	if (PYDP_TUNNEL_IPV6)
		__builtin_memcpy(key->local_ipv6, local, 16);
	else
		key->local_ipv4 = bpf_ntohl(local[0]);
	if (!(vtep->tunnel & TUNNEL_CHECKSUM))
		flags |= BPF_F_ZERO_CSUM_TX;
	if (!PYDP_TUNNEL_IPV6 && outer_df(vtep->tunnel, inner))
		flags |= BPF_F_DONT_FRAGMENT;
	return flags;
}

/* Write the metadata for VTEP. */
static __always_inline bool vxlan_describe(hook_ctx *ctx, struct bpf_tunnel_key *key, const struct vxlan_vtep *vtep,
					   __u64 flags)
{
	if (PYDP_TUNNEL_IPV6)
		__builtin_memcpy(key->remote_ipv6, vtep->address, 16);
	else
		key->remote_ipv4 = bpf_ntohl(vtep->address[0]);
	return hook_describe(ctx, key, flags);
}

/* Let the kernel encapsulate the frame for a VTEP. */
static __always_inline enum verdict vxlan_hand_over(hook_ctx *ctx, struct packet *packet, const struct vxlan_vtep *vtep,
						    __u32 index, const struct inner *inner, enum verdict why)
{
	if (PYDP_VXLAN_ADOPTED || !HOOK_FLOODS)
		return why;
	struct bpf_tunnel_key key = {};
	__u64 flags = vxlan_key(&key, vtep, inner);
	if (!vxlan_describe(ctx, &key, vtep, flags))
		return PUNT_ERROR;
	vxlan_count_sent(vtep, index, packet->length);
	packet->companion = PYDP_VXLAN_COMPANION;
	return why;
}

/* A packet that is longer than the path takes: answered where the kernel answers, fragmented outside by it where it does that. */
static __always_inline enum verdict vxlan_too_big(hook_ctx *ctx, struct packet *packet, const struct vxlan_vtep *vtep,
						  __u32 index, const struct vxlan_port *in, const struct inner *inner,
						  __u32 mtu)
{
	if (PYDP_VXLAN_ADOPTED || !too_big_answers(ctx, packet, mtu, false))
		return vxlan_hand_over(ctx, packet, vtep, index, inner, PUNT_TOO_BIG);
	if (!too_big_reply(ctx, packet, mtu))
		return PUNT_ERROR;
	packet->egress = in->ifindex;
	return FORWARD_REPLY;
}

/* Add to SUM what the UDP checksum covers: the IP addresses, and LENGTH bytes from the UDP header on, at AT, where the outer IP header is. False
 * if they cannot be told without reading them. */
static __always_inline bool vxlan_sum(const void *at, const void *end, __u32 length, __u64 *sum)
{
	const void *udp = at + OUTER_SIZE, *frame = udp + 16;
	if (frame + ETH_HLEN > end)
		return false;
	*sum += whole_words(PYDP_TUNNEL_IPV6 ? at + 8 : at + 12, PYDP_TUNNEL_IPV6 ? 16 : 4);
	*sum += bpf_htons(length) + bpf_htons(IP_UDP) + whole_words(udp, 8 + ETH_HLEN / 2);
	return whole_ip(frame + ETH_HLEN, end, *(__be16 *)(frame + 2 * ETH_ALEN), length - 16 - ETH_HLEN, sum);
}

/* Put the frame into a packet for VTEP, all of whose headers are known, and send it. */
static __always_inline enum verdict vxlan_wrap(hook_ctx *ctx, struct packet *packet, const struct vxlan_vtep *vtep,
					       struct hop *hop, const struct inner *inner)
{
	__be32 local[4];
	vxlan_local(local);
	const __u64 l3 = PYDP_TUNNEL_IPV6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	const __u64 flags = l3 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) |
			    BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	struct outer outer = {
		.saddr = local,
		.daddr = vtep->address,
		.payload = 16 + packet->length,
		.id = hop->id,
		.tos = outer_tos(vtep->tunnel, vtep->tos, inner),
		.ttl = outer_ttl(vtep->tunnel, vtep->ttl, PYDP_TUNNEL_TTL, inner),
		.protocol = IP_UDP,
		.df = outer_df(vtep->tunnel, inner),
	};
	__u16 sport = flow_source_port(flow_hash(ctx, packet), vtep->low, vtep->high);
	hop->id += hook_gso_segments(ctx);
	struct ethernet inner_header, header = hop->header;
	if (hook_data(ctx) + ETH_HLEN > hook_data_end(ctx))
		return PUNT_ERROR;
	ethernet_read(&inner_header, hook_data(ctx));
	if (!hook_open(ctx, VXLAN_ROOM, flags))
		return PUNT_PROTOCOL; /* a GSO frame of other than TCP and UDP */
	void *data = hook_data(ctx);
	if (data + VXLAN_FIRST > hook_data_end(ctx))
		return PUNT_ERROR;
	header.ethertype = bpf_htons(PYDP_TUNNEL_IPV6 ? ETH_P_IPV6 : ETH_P_IP);
	ethernet_write(data, &header);
	outer_write(data + ETH_HLEN, &outer);
	__be16 *udp = data + ETH_HLEN + OUTER_SIZE;
	*(__u64 *)udp = bpf_htonl((__u32)sport << 16 | PYDP_VXLAN_PORT) | (__u64)bpf_htons(16 + packet->length) << 32;
	__be32 *vxlan = data + ETH_HLEN + OUTER_SIZE + 8;
	*(__u64 *)vxlan = bpf_htonl(VXLAN_FLAGS) | (__u64)bpf_htonl(vtep->vni << 8) << 32;
	if (HOOK_HEADER_STAYS)
		ethernet_write(vxlan + 2, &inner_header);
	if (vtep->tunnel & TUNNEL_CHECKSUM) {
		__u64 sum = 0;
		if (!vxlan_sum(data + ETH_HLEN, hook_data_end(ctx), 16 + packet->length, &sum))
			return PUNT_ERROR;
		__u16 check = ~checksum_fold(sum);
		udp[3] = check ? check : 0xffff; /* 0 says that there is none (RFC 768) */
	}
	packet->egress = hop->ifindex;
	return FORWARD_ENCAP;
}

/* Can the outer checksum be told from the headers? Not that of each piece of a frame that is cut up below. */
static __always_inline bool vxlan_can_sum(hook_ctx *ctx, const struct packet *packet)
{
	__u64 sum = 0;
	void *data = hook_data(ctx), *end = hook_data_end(ctx);
	return !hook_is_gso(ctx) && packet->network == ETH_HLEN &&
	       whole_ip(data + ETH_HLEN, end, packet->ethertype, packet->length - ETH_HLEN, &sum);
}

/* A frame from port IN for the VTEP with this index. Gives PASS_UNCLAIMED if the segment has none there (any more). */
static __always_inline enum verdict vxlan_encap(hook_ctx *ctx, struct packet *packet, const struct vxlan_port *in,
						__u32 index, __u32 now)
{
	struct vxlan_vtep *vtep = vxlan_vtep(index);
	struct hop *hop = vxlan_hops.lookup(&index);
	if (!vtep || !hop || !(vtep->flags & VTEP_PRESENT) || vtep->segment != in->segment)
		return PASS_UNCLAIMED;
	struct inner inner = {};
	hook_pull(ctx, VXLAN_HEADERS);
	inner_read(ctx, packet, &inner);
	if (!HOOK_TAG_IN_FRAME && packet->length && hook_tagged(ctx))
		return vxlan_hand_over(ctx, packet, vtep, index, &inner, PUNT_TAGGED);
	if (HOOK_OPENS_IP && (packet->network != ETH_HLEN || !inner.version))
		return vxlan_hand_over(ctx, packet, vtep, index, &inner, PUNT_PROTOCOL);
	if (vtep->tunnel & TUNNEL_CHECKSUM && !vxlan_can_sum(ctx, packet))
		return vxlan_hand_over(ctx, packet, vtep, index, &inner, PUNT_CHECKSUM);
	__be32 local[4];
	vxlan_local(local);
	enum hop_answer answer = hop_find(ctx, hop, vtep->address, local, PYDP_TUNNEL_VIEWPOINT, PYDP_TUNNEL_IPV6,
					  IP_UDP, now, HOOK_FLOODS || PYDP_VXLAN_ADOPTED);
	__u32 mtu = hop->ready ? hop->mtu : PYDP_TUNNEL_MTU;
	if (inner_length(ctx, packet, &inner) + VXLAN_ROOM > mtu)
		return vxlan_too_big(ctx, packet, vtep, index, in, &inner, mtu - VXLAN_ROOM);
	if (answer != HOP_READY)
		return vxlan_hand_over(ctx, packet, vtep, index, &inner, PUNT_NEIGHBOUR);
	enum verdict verdict = vxlan_wrap(ctx, packet, vtep, hop, &inner);
	if (verdict == FORWARD_ENCAP)
		vxlan_count_sent(vtep, index, packet->length);
	return verdict == PUNT_PROTOCOL ? vxlan_hand_over(ctx, packet, vtep, index, &inner, verdict) : verdict;
}

/* A frame of a segment, wherever it came from. */
struct vxlan_frame {
	__u64 dest;
	__u64 source;
	__u32 length; /* in bytes, a tag in it included */
	__u32 segment;
	__u32 from; /* slot, or with FDB_REMOTE the index of the VTEP */
	__u32 device; /* ifindex of the port, 0 for a VTEP */
	struct vxlan_vtep *vtep; /* null for a port */
	__u16 tagged; /* it begins with a VLAN tag */
	__u16 learning; /* where it came from is to be learned */
};

/* The outer header of a packet for this end of the tunnels. */
struct vxlan_outer {
	__be32 saddr[4]; /* IPv4 in the first word */
	__u32 length; /* bytes behind the IP header, as it says */
	__u8 tos;
	__u8 pad[3];
};

/* Is the packet UDP from IP header to IP header for the local end? Reads OUTER. Fragments and packets with options or extension headers
 * are the kernel's; of these, the first give PUNT_FRAGMENT. */
static __always_inline enum verdict vxlan_for_us(void *at, void *end, struct vxlan_outer *outer, bool *for_us)
{
	__be32 local[4];
	vxlan_local(local);
	*for_us = false;
	if (at + OUTER_SIZE > end)
		return PASS_UNCLAIMED;
	if (PYDP_TUNNEL_IPV6) {
		struct ipv6hdr *ip = at;
		const __be32 *daddr = at + 24;
		if ((daddr[0] ^ local[0]) | (daddr[1] ^ local[1]) | (daddr[2] ^ local[2]) | (daddr[3] ^ local[3]))
			return PASS_UNCLAIMED;
		if (ip->nexthdr != IP_UDP)
			return ip->nexthdr == IP_FRAGMENT ? PUNT_FRAGMENT : PASS_UNCLAIMED;
		__builtin_memcpy(outer->saddr, &ip->saddr, 16);
		outer->length = bpf_ntohs(ip->payload_len);
		outer->tos = bpf_ntohs(*(__be16 *)at) >> 4;
		if (ip->version != 6)
			return PUNT_HEADER;
	} else {
		struct iphdr *ip = at;
		if (ip->daddr != local[0] || ip->protocol != IP_UDP)
			return PASS_UNCLAIMED;
		if (ip->frag_off & bpf_htons(0x3fff))
			return PUNT_FRAGMENT;
		if (ip->version != 4 || ip->ihl != 5 || checksum_fold(checksum_ipv4(ip)) != 0xffff)
			return PUNT_HEADER;
		outer->saddr[0] = ip->saddr;
		outer->length = bpf_ntohs(ip->tot_len) - 20;
		outer->tos = ip->tos;
	}
	*for_us = true;
	return PASS_UNCLAIMED;
}

/* Is the UDP checksum right, as far as can be told? A frame that comes in pieces was checked when they were put together, or never left
 * this machine. */
static __always_inline bool vxlan_checksum_right(hook_ctx *ctx, const void *at, const void *end, __u32 length)
{
	__u64 sum = 0;
	return hook_is_gso(ctx) || (vxlan_sum(at, end, length, &sum) && checksum_fold(sum) == 0xffff);
}

/* Everything about the UDP and VXLAN headers that a plain packet has. Gives PASS_UNCLAIMED for one that is. */
static __always_inline enum verdict vxlan_check(void *at, const struct packet *packet, const struct vxlan_outer *outer)
{
	__be16 *udp = at + OUTER_SIZE;
	__be32 *vxlan = at + OUTER_SIZE + 8;
	if (packet->length != ETH_HLEN + OUTER_SIZE + outer->length || bpf_ntohs(udp[2]) != outer->length)
		return PUNT_HEADER;
	if (vxlan[0] != bpf_htonl(VXLAN_FLAGS) || bpf_ntohl(vxlan[1]) & 0xff)
		return PUNT_HEADER;
	return PASS_UNCLAIMED;
}

/* What is left to be judged of a packet from a VTEP. */
static __always_inline enum verdict vxlan_judge(hook_ctx *ctx, void *at, const struct vxlan_outer *outer, bool tagged)
{
	__be16 *udp = at + OUTER_SIZE;
	if (udp[3] ? !vxlan_checksum_right(ctx, at, hook_data_end(ctx), outer->length) : !PYDP_VXLAN_ZERO_CHECKSUM)
		return PUNT_CHECKSUM;
	if (outer_marked(outer->tos))
		return PUNT_ECN;
	/* Cut up later, by the protocol that the stack has for it, which would stay that of the outer packet. */
	return hook_is_gso(ctx) && tagged ? PUNT_TAGGED : PASS_UNCLAIMED;
}

/* The segment that a frame from the VTEP at ADDRESS with VNI is of; one that nobody named is believed only where the kernel has taken the frame
 * out of its packet (WELCOME). */
static __always_inline bool vxlan_place(struct vxlan_frame *frame, const __be32 *address, __u32 vni, const bool welcome)
{
	__u32 index = 0;
	struct vxlan_vtep *vtep = vxlan_find(address, vni, &index);
	if (!vtep && welcome && PYDP_VXLAN_ANY_SOURCE)
		vtep = vxlan_welcome(address, vni, &index);
	if (!vtep)
		return false;
	frame->vtep = vtep;
	frame->segment = vtep->segment;
	frame->from = index | FDB_REMOTE;
	frame->learning = !!(vtep->flags & VTEP_LEARNING);
	return true;
}

/* The frame in a packet of the underlay. Gives PASS_UNCLAIMED where there is one; all else is for the stack, VTEPs' packets with a
 * reason, others with OURS false. */
static __always_inline enum verdict vxlan_from_underlay(hook_ctx *ctx, const struct packet *packet, __u32 slot,
							struct vxlan_frame *frame, bool *ours)
{
	struct vxlan_outer outer = {};
	*ours = false;
	if (packet->ethertype != bpf_htons(PYDP_TUNNEL_IPV6 ? ETH_P_IPV6 : ETH_P_IP) || packet->tags)
		return PASS_UNCLAIMED;
	hook_pull(ctx, VXLAN_FIRST);
	void *at = hook_data(ctx) + ETH_HLEN, *end = hook_data_end(ctx);
	bool for_us = false;
	enum verdict verdict = vxlan_for_us(at, end, &outer, &for_us);
	if (!for_us)
		return verdict;
	__be16 *udp = at + OUTER_SIZE;
	if ((void *)(udp + 4) > end || udp[1] != bpf_htons(PYDP_VXLAN_PORT))
		return PASS_UNCLAIMED;
	struct vxlan_port *in = vxlan_ports.lookup(&slot);
	if (!in || packet->dest != in->mac)
		return PUNT_ADDRESS;
	if (at + VXLAN_ROOM > end)
		return PUNT_TRUNCATED;
	verdict = vxlan_check(at, packet, &outer);
	if (verdict != PASS_UNCLAIMED)
		return verdict;
	__be32 *vxlan = at + OUTER_SIZE + 8;
	__u32 vni = bpf_ntohl(vxlan[1]) >> 8;
	frame->dest = *(__u64 *)(vxlan + 2) & MAC_MASK;
	frame->source = *(__u64 *)((void *)(vxlan + 2) + ETH_ALEN) & MAC_MASK;
	frame->tagged = is_tag(*(__be16 *)((void *)(vxlan + 2) + 2 * ETH_ALEN));
	frame->length = packet->length - VXLAN_ROOM;
	if (!vxlan_place(frame, outer.saddr, vni, false))
		return PUNT_VTEP;
	verdict = vxlan_judge(ctx, at, &outer, frame->tagged);
	*ours = verdict == PASS_UNCLAIMED;
	return verdict;
}

/* A frame that the kernel took out of its packet, with the sender in the metadata. */
static __always_inline enum verdict vxlan_from_companion(hook_ctx *ctx, const struct packet *packet,
							 struct vxlan_frame *frame)
{
	struct bpf_tunnel_key key = {};
	__be32 address[4] = {};
	if (!hook_described(ctx, &key, PYDP_TUNNEL_IPV6 ? BPF_F_TUNINFO_IPV6 : 0))
		return DROP_VTEP;
	if (PYDP_TUNNEL_IPV6)
		__builtin_memcpy(address, key.remote_ipv6, 16);
	else
		address[0] = bpf_htonl(key.remote_ipv4);
	if (!vxlan_place(frame, address, key.tunnel_id, true))
		return DROP_VTEP;
	frame->dest = packet->dest;
	frame->source = packet->source;
	frame->length = packet->length;
	return PASS_UNCLAIMED;
}

static __always_inline enum verdict vxlan_from_port(hook_ctx *ctx, const struct packet *packet, __u32 slot,
						    const struct vxlan_port *in, struct vxlan_frame *frame)
{
	if (!in)
		return PUNT_PORT;
	frame->dest = packet->dest;
	frame->source = packet->source;
	frame->length = packet->length;
	frame->tagged = HOOK_TAG_IN_FRAME && packet->tags;
	frame->segment = in->segment;
	frame->from = slot;
	frame->device = in->ifindex;
	frame->learning = !!(in->flags & VXLAN_LOCAL_LEARNING);
	return PASS_UNCLAIMED;
}

/* A frame for several or for nobody known: say what vxlan_copies() needs to know. */
static __always_inline enum verdict vxlan_flood(hook_ctx *ctx, const struct vxlan_frame *frame, __u64 role)
{
	bool group = is_group(frame->dest);
	if (PYDP_VXLAN_ADOPTED || role == ROLE_UNDERLAY)
		return group ? PUNT_GROUP : PUNT_UNKNOWN;
	if (!HOOK_FLOODS)
		return PUNT_FLOOD;
	hook_note(ctx, VXLAN_NOTE_DEVICE, frame->device);
	hook_note(ctx, VXLAN_NOTE_SEGMENT, frame->segment);
	hook_note(ctx, VXLAN_NOTE_LENGTH, hook_is_gso(ctx) ? 0 : frame->length);
	hook_note(ctx, VXLAN_NOTE_KEEP, group && role == ROLE_PORT);
	return FLOOD_PORTS;
}

/* Take the outer headers off. */
static __always_inline bool vxlan_unwrap(hook_ctx *ctx, __be16 *ethertype)
{
	struct ethernet header;
	void *data = hook_data(ctx);
	if (data + VXLAN_FIRST > hook_data_end(ctx))
		return false;
	ethernet_read(&header, data + VXLAN_ROOM);
	*ethertype = header.ethertype;
	/* The stack's idea of the protocol stays that of the outer header, but for these. */
	__u64 flags = *ethertype == bpf_htons(ETH_P_IPV6) && !PYDP_TUNNEL_IPV6 ? HOOK_NOW_IPV6 :
		      *ethertype == bpf_htons(ETH_P_IP) && PYDP_TUNNEL_IPV6    ? HOOK_NOW_IPV4 :
										 0;
	if (!hook_close(ctx, VXLAN_ROOM, flags))
		return false;
	data = hook_data(ctx);
	if (data + ETH_HLEN > hook_data_end(ctx))
		return false;
	if (HOOK_HEADER_STAYS)
		ethernet_write(data, &header);
	return true;
}

/* A frame for the port in this slot. */
static __always_inline enum verdict vxlan_to_port(hook_ctx *ctx, struct packet *packet, const struct vxlan_frame *frame,
						  __u32 slot, __u64 role)
{
	struct vxlan_port *out = vxlan_ports.lookup(&slot);
	if (!out || !(out->flags & VXLAN_PRESENT) || out->segment != frame->segment)
		return vxlan_flood(ctx, frame, role);
	if (out->flags & VXLAN_PUNT)
		return PUNT_PORT;
	if (!hook_is_gso(ctx) && frame->length - (frame->tagged ? 4 : 0) > out->max_length)
		return DROP_MTU;
	if (HOOK_TAG_IN_FRAME && frame->length > out->max_length) /* see bridge_fits() */
		return PUNT_LENGTH;
	__be16 ethertype = packet->ethertype;
	if (role == ROLE_UNDERLAY && !vxlan_unwrap(ctx, &ethertype))
		return PUNT_PROTOCOL;
	packet->egress = out->ifindex;
	/* A peer is handed the frame with the protocol that the stack has for it. */
	packet->peer = out->flags & VXLAN_PEER && (role != ROLE_UNDERLAY || ethertype == bpf_htons(ETH_P_IP) ||
						   ethertype == bpf_htons(ETH_P_IPV6));
	return role == ROLE_PORT ? FORWARD_PORT : FORWARD_DECAP;
}

/* Answer for a neighbour that is known beforehand. */
static __always_inline bool vxlan_answers(hook_ctx *ctx, struct packet *packet, const struct vxlan_port *in)
{
	struct vxlan_name name = { .vni = in->segment };
	if (!neighbour_asked(ctx, packet, name.address))
		return false;
	__u64 *mac = vxlan_neighbours.lookup(&name);
	if (!mac || !neighbour_answer(ctx, packet, *mac))
		return false;
	packet->egress = in->ifindex;
	return true;
}

static __always_inline enum verdict vxlan_stage(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	__u64 role = STAGE_CONSTANT(STAGE_VXLAN, CONSTANT_ROLE), seed = STAGE_CONSTANT(STAGE_VXLAN, CONSTANT_SEED);
	struct vxlan_port *in = role == ROLE_PORT ? vxlan_ports.lookup(&slot) : 0;
	struct vxlan_frame frame = {};
	bool ours = true;
	enum verdict verdict = role == ROLE_UNDERLAY  ? vxlan_from_underlay(ctx, packet, slot, &frame, &ours) :
			       role == ROLE_COMPANION ? vxlan_from_companion(ctx, packet, &frame) :
							vxlan_from_port(ctx, packet, slot, in, &frame);
	if (verdict != PASS_UNCLAIMED || !ours)
		return verdict;
	if (is_group(frame.source) || !frame.source)
		return DROP_SOURCE;
	__u64 segment_key = (__u64)frame.segment << 48;
	__u32 now = fdb_now();
	if (frame.learning && PYDP_FDB_AGEING)
		verdict = fdb_learn(frame.source | segment_key, seed, frame.from, now, PYDP_VXLAN_ADOPTED);
	if (in && in->flags & VXLAN_PUNT)
		return PUNT_PORT;
	if (vxlan_link_local(frame.dest))
		return PUNT_LINK_LOCAL;
	if (verdict != PASS_UNCLAIMED)
		return verdict;
	if (PYDP_VXLAN_NEIGHBOUR && in && is_group(frame.dest) && vxlan_answers(ctx, packet, in))
		return FORWARD_REPLY;
	__u32 where = is_group(frame.dest) ? 0 : fdb_lookup(frame.dest | segment_key, seed, now);
	__u32 place = where & FDB_PLACE_MASK;
	if (where & FDB_LOCAL)
		return PUNT_LOCAL;
	if (role != ROLE_PORT && where & FDB_REMOTE)
		return PYDP_VXLAN_ADOPTED ? PUNT_UNKNOWN : DROP_SAME_PORT;
	if (where && place == frame.from)
		return DROP_SAME_PORT;
	if (in && where & FDB_REMOTE) {
		verdict = vxlan_encap(ctx, packet, in, where & FDB_SLOT_MASK, now);
		if (verdict != PASS_UNCLAIMED)
			return verdict;
		where = 0;
	}
	verdict = where ? vxlan_to_port(ctx, packet, &frame, place, role) : vxlan_flood(ctx, &frame, role);
	/* What goes up to the companion is counted when it comes from there. */
	if (frame.vtep && (verdict == FORWARD_DECAP || verdict == FLOOD_PORTS))
		vxlan_count_received(frame.vtep, frame.from & FDB_SLOT_MASK, frame.length);
	return verdict;
}

/* A copy for each VTEP of the segment, by way of the companion. */
static __always_inline void vxlan_copy_out(hook_ctx *ctx, const struct vxlan_segment *segment, __u32 length,
					   const struct inner *inner)
{
	struct bpf_tunnel_key key = {};
	__u32 at = segment->first, count = segment->count;
	__u32 *index = vxlan_replicas.lookup(&at);
	struct vxlan_vtep *vtep = index ? vxlan_vteps.lookup(index) : 0;
	if (!vtep)
		return;
	/* A group stands alone. What is the same for all is outside of the loop, or the verifier would follow its branches each time. */
	__u64 flags = vxlan_key(&key, vtep, inner);
	for (__u32 i = 0; i < PYDP_VXLAN_COPIES; i++) {
		at = segment->first + i;
		index = vxlan_replicas.lookup(&at);
		vtep = index ? vxlan_vteps.lookup(index) : 0;
		if (i >= count || !vtep)
			break;
		if (!vxlan_describe(ctx, &key, vtep, flags))
			continue;
		vxlan_count_sent(vtep, *index, length);
		hook_copy(ctx, PYDP_VXLAN_COMPANION);
	}
}

/* Copy the frame to all who may have it. Broadcast and multicast also go up to the host. */
int vxlan_copies(hook_ctx *ctx)
{
	__u32 from = hook_noted(ctx, VXLAN_NOTE_DEVICE), number = hook_noted(ctx, VXLAN_NOTE_SEGMENT),
	      length = hook_noted(ctx, VXLAN_NOTE_LENGTH), keep = hook_noted(ctx, VXLAN_NOTE_KEEP);
	struct vxlan_segment *segment = vxlan_segments.lookup(&number);
	if (!segment)
		return hook_drop();
	for (__u32 i = 0; i < PYDP_VXLAN_SLOTS; i++) {
		__u32 slot = i;
		if (!vxlan_has(segment->members, i))
			continue;
		struct vxlan_port *out = vxlan_ports.lookup(&slot);
		/* Not by slot: the verifier would keep in mind which of them `from` is not, and follow each way of the loop. */
		if (out && out->ifindex != from && length <= out->max_length)
			hook_copy(ctx, out->ifindex);
	}
	if (from) {
		struct packet packet = {};
		struct inner inner = {};
		if (parse_packet(ctx, &packet))
			inner_read(ctx, &packet, &inner);
		vxlan_copy_out(ctx, segment, hook_length(ctx), &inner);
	}
	return keep ? hook_pass() : hook_drop();
}

/* What is left to do for a verdict after it was counted. */
static __always_inline void vxlan_finish(hook_ctx *ctx, enum verdict verdict)
{
	if (HOOK_FLOODS && !PYDP_VXLAN_ADOPTED && verdict == FLOOD_PORTS)
		vxlan_tails.call(ctx, 0);
}
