// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The forwarding database: which port an address is behind. Who changes it is in lib/fdb_learn.h.
//
// A table of our own in one array map, since an array look-up costs 2 ns and one cache line where a hash map costs 30 to 500 ns,
// and since a hash map can neither forget aged entries without a daemon nor spare permanent ones when it is full (an LRU map
// evicts those too). Each address has two buckets of four places; an entry may stand in any of the eight.

#include "lib/clock.h"
#include "lib/lines.h"

enum fdb_limit {
	FDB_WAYS = 4, /* places of a bucket */
	FDB_TICK_SHIFT = CLOCK_TICK_SHIFT, /* ns to the ticks of an entry */
};

struct fdb_bucket {
	__u64 key[4]; /* MAC address, first byte lowest, then the VLAN id or number of the segment; 0 for an empty place */
	__u32 where[4]; /* slot, and enum fdb_flag */
	__u32 seen[4]; /* when its station last sent something, in ticks */
};

enum fdb_flag {
	FDB_SLOT_MASK = 0xffff, /* the slot in `where` */
	FDB_PLACE_MASK = 0x40ffff, /* all that tells where: the slot and FDB_REMOTE */
	FDB_VALID = 0x10000, /* the entry is complete */
	FDB_STATIC = 0x20000, /* written by a person or the kernel: does not age, is not evicted */
	FDB_LOCAL = 0x40000, /* an address of this host */
	FDB_STICKY = 0x80000, /* does not move to another port */
	FDB_OWNED = 0x100000, /* written by the attach: written anew by the next one */
	FDB_BUSY = 0x200000, /* alone: a CPU is changing the place */
	FDB_REMOTE = 0x400000, /* behind a VTEP, whose index stands in place of the slot */
};

enum fdb_event {
	FDB_LEARNED = 0, /* addresses learned */
	FDB_MOVED = 1, /* addresses that moved to another port */
	FDB_AGED = 2, /* entries found too old and replaced or learned again */
	FDB_EVICTED = 3, /* live entries that had to go for a new address: the table is too small */
	FDB_FULL = 4, /* addresses not learned, all their places being permanent */
	FDB_EVENTS = 5, /* how many events there are */
	FDB_LATE = 6, /* not counted: another CPU took the place, nothing was done */
};

/* Written by the datapath alone: also what Python wants goes through fdb_control(). */
BPF_F_TABLE("array", __u32, struct fdb_bucket, fdb, 1, IN_LINES);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, __u64, fdb_events, FDB_EVENTS);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct clock, fdb_clock, 1);

struct fdb_place {
	struct fdb_bucket *bucket;
	__u32 way;
};

static __always_inline __u32 fdb_now(void)
{
	__u32 zero = 0;
	return clock_now(fdb_clock.lookup(&zero));
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
	__u32 index = hash & (PYDP_FDB_BUCKETS - 1);
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

/* Ticks since an entry was SEEN. A stamp may be younger than this CPU's clock, which is read once a jiffy: that is no age at all, where
 * the difference would be the greatest there is. */
static __always_inline __u32 fdb_idle(__u32 seen, __u32 now)
{
	__s32 idle = now - seen;
	return idle & ~(idle >> 31);
}

static __always_inline bool fdb_expired(__u32 where, __u32 seen, __u32 now)
{
	return !(where & FDB_STATIC) && fdb_idle(seen, now) > PYDP_FDB_AGEING;
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
	/* The place may have become another address's before `where` was read. */
	return *(volatile __u64 *)&place.bucket->key[place.way & 3] == key ? where : 0;
}
