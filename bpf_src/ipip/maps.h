// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What stage ipip knows: its maps, and looking up peers in them.

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

/* Written by Python. Index: slot. */
BPF_TABLE("array", __u32, struct ipip_port, ipip_ports, IPIP_PORTS);
/* Written by Python. Ports that packets may be sent out of at once, by the lower bits of their ifindex. */
BPF_TABLE("array", __u32, struct ipip_port, ipip_devices, IPIP_PLACES);
/* Written by Python. */
BPF_TABLE("array", __u32, struct ipip_peer, ipip_peers, IPIP_PEERS);
/* Written by Python. Keys are addresses of peers, values their indices. */
BPF_F_TABLE("array", __u32, struct table_bucket, ipip_known, 1, IN_LINES);
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
/* Written by the datapath. Only those that occurred have an entry. */
BPF_F_TABLE("percpu_hash", struct tunnel_fate, __u64, ipip_fates, TUNNEL_FATES, BPF_F_NO_PREALLOC);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct clock, ipip_clock, 1);

static __always_inline __u32 ipip_now(void)
{
	__u32 zero = 0;
	return clock_now(ipip_clock.lookup(&zero));
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

/* A packet from or for a peer is left to the kernel, or dropped. */
static __always_inline void ipip_count_fate(__u32 index, enum verdict verdict)
{
	struct tunnel_fate key = { .index = index, .verdict = verdict };
	struct ipip_peer *peer = PYDP_COUNTERS ? ipip_peers.lookup(&index) : 0;
	__u64 zero = 0;
	if (!peer)
		return;
	key.owner = peer->owner;
	__u64 *count = ipip_fates.lookup_or_try_init(&key, &zero);
	if (count)
		(*count)++;
}

// Into the tunnel
