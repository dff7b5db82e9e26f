// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The conntrack table: flows, found by either of their tuples.
//
// A table of our own in two array maps, for the reasons that lib/fdb.h gives. Records stand in `nat_flows`; `nat_index` says where, by the
// hash of a tuple: eight places to a cache line, two lines in which a tuple may stand, twice as many places as there can be tuples.
// Who writes it is in claim.h.

enum nat_class {
	NAT_CLASS_FREE = 0,
	NAT_CLASS_BUSY = 1, /* a CPU is writing the record */
	NAT_CLASS_NEW = 2, /* not assured: goes first when room is needed */
	NAT_CLASS_ASSURED = 3, /* both sides were heard, as nf_conntrack wants it: never goes before its time */
	NAT_CLASS_CLOSING = 4, /* was assured, and is ending: goes when no new one is left */
};

enum nat_state {
	NAT_STATE_NONE = 0, /* no state: ICMP and other protocols; UDP has enum nat_udp */
	NAT_STATE_SYN_SENT = 1,
	NAT_STATE_SYN_RECV = 2,
	NAT_STATE_ESTABLISHED = 3,
	NAT_STATE_FIN_WAIT = 4, /* one side has ended */
	NAT_STATE_CLOSE_WAIT = 5, /* the other side has seen that */
	NAT_STATE_LAST_ACK = 6, /* both sides have ended */
	NAT_STATE_TIME_WAIT = 7,
	NAT_STATE_CLOSE = 8, /* reset */
	NAT_STATES = 9,
};

/* What a flow of UDP has in place of a state; 0 before its first packet is noted. */
enum nat_udp {
	NAT_UDP_OLD = 1, /* began more than two seconds ago */
	NAT_UDP_YOUNG = 128, /* began at the instant that is in the lower bits */
};

enum nat_flow_flag {
	NAT_FLOW_REPLIED = 1, /* the responder was heard */
	NAT_FLOW_SOURCE = 2, /* the source is translated on the way to the responder */
	NAT_FLOW_DESTINATION = 4, /* the destination is */
	NAT_FLOW_HOST = 8, /* the initiator is this host */
	NAT_FLOW_FIN_ORIGINAL = 16, /* the initiator has ended */
	NAT_FLOW_FIN_REPLY = 32, /* the responder has ended */
	NAT_FLOW_PICKED_UP = 64, /* was there before we were */
	NAT_FLOW_DSR = 128, /* the responder answers by itself */
};

/* A conntrack entry. A packet that matches `original` leaves as the inverse of `reply`, and the other way round, as nf_conntrack has it. */
struct nat_flow {
	__u64 life; /* enum nat_class << 32 | tick up to which it lives; 0 for a free record */
	struct nat_tuple original;
	struct nat_tuple reply;
	__u8 protocol;
	__u8 version; /* 4 or 6 */
	__u8 state; /* enum nat_state */
	__u8 flags; /* enum nat_flow_flag */
	__u32 backend; /* its number plus one, 0 for none */
	__u32 generation; /* of the backend when it was chosen */
	__u32 device; /* of a flow of this host: ifindex that it left by, by which replies come in */
	__u64 packets[2]; /* by direction, with PYDP_NAT_ACCOUNTING */
	__u64 bytes[2];
};

/* Where flows are: each stands under both its tuples. Hash above, number of the record plus one below; 0 for an empty place. */
struct nat_bucket {
	__u64 place[8];
};

/* Written by the datapath. */
BPF_F_TABLE("array", __u32, struct nat_flow, nat_flows, NAT_FLOWS, IN_LINES);
/* Written by the datapath. Twice as many places as flows have tuples. */
BPF_F_TABLE("array", __u32, struct nat_bucket, nat_index, NAT_FLOWS / 2, IN_LINES);

/* A flow, and the direction of a packet in it. */
struct nat_found {
	struct nat_flow *flow;
	__u32 number;
	__u32 way; /* 0 from the initiator, 1 from the responder */
};

/* The time in ticks. */
static __always_inline __u32 nat_now(void)
{
	__u32 zero = 0;
	return clock_now(nat_clocks.lookup(&zero));
}

static __always_inline void nat_count_event(__u32 event)
{
	__u64 *count = nat_events.lookup(&event);
	if (count)
		(*count)++;
}

/* All bits set if NUMBER is 0, else none: in place of a branch, of which the verifier would follow both. */
static __always_inline __u32 nat_if_none(__u32 number)
{
	__u32 mask = ((__u64)number - 1) >> 32;
	asm volatile("" : "+r"(mask));
	return mask;
}

static __always_inline __u64 nat_mix(__u64 hash)
{
	hash *= 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 32;
}

/* A hash of what a tuple has but for its ports, with a secret seed, so that nobody can choose flows that meet. */
static __always_inline __u64 nat_hash_addresses(const struct nat_tuple *tuple, __u8 protocol, __u8 version, __u64 seed)
{
	__u64 hash = (tuple->saddr[0] | (__u64)tuple->daddr[0] << 32) ^ seed;
	if (version == 6) {
		hash = nat_mix(hash) ^ (tuple->saddr[1] | (__u64)tuple->saddr[2] << 32);
		hash = nat_mix(hash) ^ (tuple->daddr[1] | (__u64)tuple->daddr[2] << 32);
		hash = nat_mix(hash) ^ (tuple->saddr[3] | (__u64)tuple->daddr[3] << 32);
	}
	return nat_mix(hash) ^ ((__u64)protocol << 32 | (__u64)version << 40);
}

static __always_inline __u64 nat_hash_ports(__u64 addresses, __be16 sport, __be16 dport)
{
	/* Both halves name a bucket: twice, or neighbouring ports have two buckets that belong together. */
	__u64 hash = (addresses ^ (sport | (__u32)dport << 16)) * 0xd6e8feb86659fd93ULL;
	return nat_mix(hash ^ hash >> 32);
}

static __always_inline __u64 nat_hash(const struct nat_tuple *tuple, __u8 protocol, __u8 version, __u64 seed)
{
	return nat_hash_ports(nat_hash_addresses(tuple, protocol, version, seed), tuple->sport, tuple->dport);
}

/* What stands in the index for a record: what is left of the hash, and the record's number. */
static __always_inline __u64 nat_entry(__u64 hash, __u32 number)
{
	return (hash * 0x9e3779b97f4a7c15ULL & 0xffffffff00000000ULL) | (number + 1);
}

static __always_inline bool nat_same(const struct nat_tuple *one, const struct nat_tuple *other)
{
	const __u64 *a = (const __u64 *)one, *b = (const __u64 *)other;
	__u64 differs = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]);
	return !(differs | (*(__u32 *)&one->sport ^ *(__u32 *)&other->sport));
}

static __always_inline void nat_inverse(struct nat_tuple *to, const struct nat_tuple *from)
{
	__builtin_memcpy(to->saddr, from->daddr, 16);
	__builtin_memcpy(to->daddr, from->saddr, 16);
	__u32 ports = *(const __u32 *)&from->sport; /* both in one store, as they are read */
	*(__u32 *)&to->sport = ports << 16 | ports >> 16;
}

static __always_inline __u32 nat_class(__u64 life)
{
	return life >> 32;
}

/* Is the time over? The tick of another CPU may be one ahead. */
static __always_inline bool nat_over(__u64 life, __u32 now)
{
	return (__s32)((__u32)life - now) < 0;
}

static __always_inline bool nat_lives(__u64 life, __u32 now)
{
	return nat_class(life) >= NAT_CLASS_NEW && !nat_over(life, now);
}

static __always_inline struct nat_bucket *nat_bucket(__u32 hash)
{
	__u32 index = hash & (PYDP_NAT_BUCKETS - 1);
	return nat_index.lookup(&index);
}

static __always_inline struct nat_flow *nat_flow(__u32 number)
{
	number &= PYDP_NAT_FLOWS - 1;
	return nat_flows.lookup(&number);
}

/* The number, plus one, of the record that BUCKET names for ENTRY's hash; 0 for none, and the sum of all if it names several. Without branches, of
 * which the verifier would follow each. */
static __always_inline __u32 nat_named(const struct nat_bucket *bucket, __u64 entry)
{
	__u32 named = 0;
#pragma unroll
	for (int i = 0; i < NAT_WAYS; i++) {
		__u64 place = bucket->place[i], differs = (place ^ entry) >> 32;
		__u32 hit = (__u32)((differs - 1) >> 32); /* all bits set if nothing differs */
		asm volatile("" : "+r"(hit));
		named += hit & (__u32)place;
		asm volatile("" : "+r"(named));
	}
	return named;
}

/* Is the record that BUCKET names a flow with this tuple? Reads FOUND. */
static __always_inline bool nat_found_in(const struct nat_bucket *bucket, __u64 entry, const struct nat_tuple *tuple,
					 __u32 kind, struct nat_found *found)
{
	__u32 named = nat_named(bucket, entry);
	if (!named)
		return false;
	struct nat_flow *flow = nat_flow(named - 1);
	if (!flow || *(__u16 *)&flow->protocol != kind)
		return false;
	bool original = nat_same(&flow->original, tuple);
	if (!original && !nat_same(&flow->reply, tuple))
		return false;
	found->flow = flow;
	found->number = named - 1;
	found->way = !original;
	return true;
}

/* Find the flow of a tuple, also one that has outlived its time. */
static __always_inline bool nat_find(const struct nat_tuple *tuple, __u8 protocol, __u8 version, __u64 hash,
				     struct nat_found *found)
{
	__u64 entry = nat_entry(hash, 0);
	__u32 kind = protocol | (__u32)version << 8;
	struct nat_bucket *bucket = nat_bucket(hash);
	if (bucket && nat_found_in(bucket, entry, tuple, kind, found))
		return true;
	bucket = nat_bucket(hash >> 32);
	return bucket && nat_found_in(bucket, entry, tuple, kind, found);
}
