// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What stage vxlan knows: its maps, and looking up VTEPs in them.

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

/* What hook_open() is told of the headers that come before the frame. */
#define VXLAN_OPENS                                                                         \
	((PYDP_TUNNEL_IPV6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) | \
	 BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH)

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
BPF_F_TABLE("array", __u32, struct table_bucket, vxlan_known, 1, IN_LINES);
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
/* Written by the datapath. Only those that occurred have an entry. */
BPF_F_TABLE("percpu_hash", struct tunnel_fate, __u64, vxlan_fates, TUNNEL_FATES, BPF_F_NO_PREALLOC);
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
