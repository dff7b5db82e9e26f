// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The forwarding database: which port an address is behind.
//
// A table of our own in one array map, since an array look-up costs 2 ns and one cache line where a hash map costs 30 to 500 ns,
// and since a hash map can neither forget aged entries without a daemon nor spare permanent ones when it is full (an LRU map
// evicts those too). Each address has two buckets of four places; an entry may stand in any of the eight. Whoever needs a
// place takes an empty one, an aged one, or the one not seen for longest, in that order; permanent entries stay.
//
// Several CPUs write without a lock. A place changes hands in three steps: `where` is cleared, the key is exchanged by
// compare-and-swap, `where` is written. A reader in between finds no FDB_VALID and takes the address for unknown.
// The one race left: a station moves while its entry is evicted for another address, which then points to the wrong port
// until its next frame.

#define FDB_WAYS       4
#define FDB_TICK_SHIFT 24 /* ns to ticks of 16.8 ms */

struct fdb_bucket {
	__u64 key[4]; /* MAC address, first byte lowest, then the VLAN id; 0 for an empty place */
	__u32 where[4]; /* slot, and enum fdb_flag */
	__u32 seen[4]; /* when its station last sent something, in ticks */
};

enum fdb_flag {
	FDB_SLOT_MASK = 0xffff, /* the slot in `where` */
	FDB_VALID = 0x10000, /* the entry is complete */
	FDB_STATIC = 0x20000, /* written by a person or the kernel: does not age, is not evicted */
	FDB_LOCAL = 0x40000, /* an address of this host */
	FDB_STICKY = 0x80000, /* does not move to another port */
	FDB_OWNED = 0x100000, /* written by the attach: written anew by the next one */
};

enum fdb_event {
	FDB_LEARNED = 0, /* addresses learned */
	FDB_MOVED = 1, /* addresses that moved to another port */
	FDB_AGED = 2, /* entries found too old and replaced or learned again */
	FDB_EVICTED = 3, /* live entries that had to go for a new address: the table is too small */
	FDB_FULL = 4, /* addresses not learned, all their places being permanent */
	FDB_EVENTS = 5, /* how many events there are */
};

/* Written by the datapath alone: also what Python wants goes through bridge_control(). */
BPF_TABLE("array", __u32, struct fdb_bucket, fdb, CONFIG_FDB_BUCKETS);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, __u64, fdb_events, FDB_EVENTS);

struct fdb_place {
	struct fdb_bucket *bucket;
	__u32 way;
};

static __always_inline __u32 fdb_now(void)
{
	return bpf_ktime_get_coarse_ns() >> FDB_TICK_SHIFT;
}

static __always_inline void fdb_count(__u32 event)
{
	__u64 *count = fdb_events.lookup(&event);
	if (count)
		(*count)++;
}

/* Two bucket numbers in one word: a multiplicative hash with a secret seed, so that nobody can choose addresses that meet. */
static __always_inline __u64 fdb_hash(__u64 key, __u64 seed)
{
	__u64 hash = (key ^ seed) * 0x9e3779b97f4a7c15ULL;
	hash = (hash ^ (hash >> 32)) * 0xd6e8feb86659fd93ULL;
	return hash ^ (hash >> 29);
}

static __always_inline struct fdb_bucket *fdb_bucket(__u32 hash)
{
	__u32 index = hash & (CONFIG_FDB_BUCKETS - 1);
	return fdb.lookup(&index);
}

/* Find KEY in BUCKET: its place, or FDB_WAYS. */
static __always_inline __u32 fdb_way(struct fdb_bucket *bucket, __u64 key)
{
	if (bucket->key[0] == key)
		return 0;
	if (bucket->key[1] == key)
		return 1;
	if (bucket->key[2] == key)
		return 2;
	return bucket->key[3] == key ? 3 : FDB_WAYS;
}

static __always_inline bool fdb_find(__u64 key, __u64 hash, struct fdb_place *place)
{
	place->bucket = fdb_bucket(hash);
	if (!place->bucket)
		return false;
	place->way = fdb_way(place->bucket, key);
	if (place->way < FDB_WAYS)
		return true;
	place->bucket = fdb_bucket(hash >> 32);
	if (!place->bucket)
		return false;
	place->way = fdb_way(place->bucket, key);
	return place->way < FDB_WAYS;
}

static __always_inline bool fdb_expired(__u32 where, __u32 seen, __u32 now)
{
	return !(where & FDB_STATIC) && now - seen > CONFIG_FDB_AGEING;
}

/* The port behind KEY, as `where`, or 0 when it is not known (any more). */
static __always_inline __u32 fdb_lookup(__u64 key, __u64 seed, __u32 now)
{
	struct fdb_place place;
	if (!fdb_find(key, fdb_hash(key, seed), &place))
		return 0;
	__u32 where = place.bucket->where[place.way & 3];
	if (!(where & FDB_VALID) || fdb_expired(where, place.bucket->seen[place.way & 3], now))
		return 0;
	return where;
}

/* How gladly a place is given away: empty before aged, before the one not seen for longest; 0 for never. */
static __always_inline __u64 fdb_worth(struct fdb_bucket *bucket, __u32 way, __u32 now)
{
	if (!bucket->key[way])
		return 1ULL << 34;
	__u32 where = bucket->where[way], idle = now - bucket->seen[way];
	if (where & FDB_STATIC)
		return 0;
	return (fdb_expired(where, bucket->seen[way], now) ? 1ULL << 33 : 1) + idle;
}

static __always_inline __u64 fdb_offer(struct fdb_bucket *bucket, __u32 now, __u32 *way)
{
	__u64 best = 0;
#pragma unroll
	for (__u32 i = 0; i < FDB_WAYS; i++) {
		__u64 worth = fdb_worth(bucket, i, now);
		if (worth > best) {
			best = worth;
			*way = i;
		}
	}
	return best;
}

/* Enter KEY, which is not in the table. The event says what it cost. Another CPU may win the place: then the next frame tries. */
static __always_inline enum fdb_event fdb_insert(__u64 key, __u64 hash, __u32 where, __u32 now)
{
	struct fdb_bucket *bucket = fdb_bucket(hash), *other = fdb_bucket(hash >> 32);
	if (!bucket || !other)
		return FDB_FULL;
	__u32 way = 0, other_way = 0;
	__u64 worth = fdb_offer(bucket, now, &way), other_worth = fdb_offer(other, now, &other_way);
	if (other_worth > worth) {
		bucket = other;
		way = other_way;
		worth = other_worth;
	}
	if (!worth)
		return FDB_FULL;
	__u64 old = bucket->key[way & 3];
	bucket->where[way & 3] = 0;
	if (__sync_val_compare_and_swap(&bucket->key[way & 3], old, key) != old)
		return FDB_FULL;
	bucket->seen[way & 3] = now;
	bucket->where[way & 3] = where | FDB_VALID;
	return !old ? FDB_LEARNED : worth >> 33 ? FDB_AGED : FDB_EVICTED;
}

/* Take KEY out, all places of it. */
static __always_inline bool fdb_delete(__u64 key, __u64 hash)
{
	bool found = false;
#pragma unroll
	for (__u32 i = 0; i < 2; i++) {
		struct fdb_bucket *bucket = fdb_bucket(i ? hash >> 32 : hash);
		if (!bucket)
			continue;
		__u32 way = fdb_way(bucket, key);
		if (way == FDB_WAYS)
			continue;
		bucket->where[way & 3] = 0;
		__sync_val_compare_and_swap(&bucket->key[way & 3], key, 0);
		found = true;
	}
	return found;
}
