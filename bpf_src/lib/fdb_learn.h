// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Changing the forwarding database (lib/fdb.h): entering what is heard, taking entries out.
//
// Whoever needs a place takes an empty one, an aged one, or the one not seen for longest, in that order; permanent entries stay.
//
// Several CPUs write, and nobody waits. Whoever wants to change whose a place is or where it points to takes it first:
// `where` goes from what it was seen to be to FDB_BUSY by compare-and-swap, and only who succeeds writes the key; writing the
// new `where` gives the place back. Who comes too late leaves it, and the next frame tries again. A reader takes an address in a
// busy place for unknown. Two CPUs that learn one address at the same instant may enter it twice: the first place of the
// two is used, the other ages.

/* What a stage wants done when an address has moved or gone; a new one is no such change. */
#ifndef FDB_CHANGED
#define FDB_CHANGED()
#endif

/* Does an entry keep its port when its station sends elsewhere? Like the kernel bridge's, a static one that was taken from there
 * does not; one that a person entered here does. */
static __always_inline bool fdb_stays(__u32 where)
{
	return where & (FDB_LOCAL | FDB_STICKY) || (where & (FDB_STATIC | FDB_OWNED)) == FDB_STATIC;
}

static __always_inline void fdb_count(__u32 event)
{
	__u64 *count = fdb_events.lookup(&event);
	if (count)
		(*count)++;
}

/* Take a place whose `where` was seen to be WHERE. Who has it must write `where`. The compare-and-swap has 64 bits, since 32 need a
 * newer instruction set than clang is told to use here: a neighbour's change makes it fail, too. */
static __always_inline bool fdb_take(struct fdb_bucket *bucket, __u32 way, __u32 where)
{
	__u64 *pair = (__u64 *)&bucket->where[way & 2];
	__u32 shift = (way & 1) * 32;
	__u64 old = *(volatile __u64 *)pair;
	if (where & FDB_BUSY || (__u32)(old >> shift) != where)
		return false;
	return __sync_val_compare_and_swap(pair, old, old ^ ((__u64)(where ^ FDB_BUSY) << shift)) == old;
}

/* Take a place if it is still KEY's. */
static __always_inline bool fdb_take_from(struct fdb_bucket *bucket, __u32 way, __u64 key, __u32 where)
{
	if (!fdb_take(bucket, way, where))
		return false;
	if (bucket->key[way & 3] == key)
		return true;
	bucket->where[way & 3] = where;
	return false;
}

/* The highest bit of NUMBER. The compiler is not told that it is a sign: it would make a branch of it, and the verifier would follow both
 * ways of it for each of eight places. */
static __always_inline __u64 fdb_sign(__u64 number)
{
	asm volatile("" : "+r"(number));
	return number >> 63;
}

/* 1 if NUMBER is not 0. */
static __always_inline __u64 fdb_nonzero(__u64 number)
{
	return fdb_sign(number | -number);
}

/* How gladly a place is given away: empty before aged, before the one not seen for longest; 0 for never. Buckets fill from the
 * first place on, so of two buckets with empty places the emptier one is taken. That lets the table fill to two thirds before
 * addresses that meet evict each other. NUMBER, 0 to 7, tells which place it is, in the lowest bits; the higher one wins: the first bucket,
 * where addresses are looked for first. */
static __always_inline __u64 fdb_worth(struct fdb_bucket *bucket, __u32 way, __u32 number, __u32 now)
{
	__u64 where = *(volatile __u32 *)&bucket->where[way], idle = fdb_idle(bucket->seen[way], now);
	__u64 taken = fdb_nonzero(bucket->key[way]);
	__u64 aged = fdb_sign(PYDP_FDB_AGEING - idle); /* of an empty place it does not matter */
	__u64 worth = (1 - taken) << 34 | (aged & taken) << 33 | ((idle & -taken) + 1 + (1 - taken) * (FDB_WAYS - way));
	__u64 stays = fdb_nonzero(where & (FDB_STATIC | FDB_BUSY));
	return (worth & (stays - 1)) << 3 | number;
}

static __always_inline __u64 fdb_better(__u64 one, __u64 other)
{
	__u64 less = -fdb_sign(one - other); /* both are below 2^63 */
	return (one & ~less) | (other & less);
}

/* The best of the eight places that a key may have. */
static __always_inline __u64 fdb_offer(struct fdb_bucket *bucket, struct fdb_bucket *other, __u32 now)
{
	__u64 best = 0;
#pragma unroll
	for (__u32 i = 0; i < FDB_WAYS; i++) {
		best = fdb_better(best, fdb_worth(bucket, i, FDB_WAYS + i, now));
		best = fdb_better(best, fdb_worth(other, i, i, now));
	}
	return best;
}

/* Enter KEY, which is not in the table, as last SEEN then. The event says what it cost. */
static __always_inline enum fdb_event fdb_insert(__u64 key, __u64 hash, __u32 where, __u32 seen, __u32 now)
{
	struct fdb_bucket *bucket = fdb_bucket(hash), *other = fdb_bucket(hash >> 32);
	if (!bucket || !other)
		return FDB_FULL;
	__u64 best = fdb_offer(bucket, other, now), worth = best >> 3;
	__u32 way = best & 3;
	if (!worth)
		return FDB_FULL;
	if (!(best & FDB_WAYS))
		bucket = other;
	__u32 before = *(volatile __u32 *)&bucket->where[way];
	if (before & FDB_STATIC || !fdb_take(bucket, way, before))
		return FDB_LATE;
	__u64 old = bucket->key[way];
	bucket->seen[way] = seen;
	/* A full barrier: no CPU sees the new `where` beside the old key. */
	__sync_val_compare_and_swap(&bucket->key[way], old, key);
	bucket->where[way] = where | FDB_VALID;
	return !old ? FDB_LEARNED : worth >> 33 ? FDB_AGED : FDB_EVICTED;
}

/* Note that KEY was heard of at PLACE, a slot or with FDB_REMOTE a VTEP. Where a kernel bridge is BELOW, gives PUNT_NEW_SOURCE when it should see
 * the frame: its own entry would age, since it does not see what is forwarded here. KNOWN: there was nothing to be changed but a stamp. */
static __always_inline enum verdict fdb_note(__u64 key, __u64 seed, __u32 place_now, __u32 now, const bool below,
					     bool *known)
{
	const __u32 refresh = below ? PYDP_FDB_AGEING / 4 : 0;
	const enum verdict fresh = below ? PUNT_NEW_SOURCE : PASS_UNCLAIMED;
	__u64 hash = fdb_hash(key, seed);
	struct fdb_place place;

	if (!fdb_find(key, hash, &place)) {
		enum fdb_event event = fdb_insert(key, hash, place_now, now, now);
		if (event == FDB_AGED || event == FDB_EVICTED) {
			fdb_count(FDB_LEARNED);
			FDB_CHANGED();
		}
		fdb_count(event);
		return fresh;
	}
	__u32 *seen = &place.bucket->seen[place.way & 3];
	__u32 where = place.bucket->where[place.way & 3], idle = fdb_idle(*seen, now);
	if (!(where & FDB_VALID))
		return PASS_UNCLAIMED;
	*known = fdb_stays(where) || (where & FDB_PLACE_MASK) == place_now;
	if (fdb_stays(where))
		return PASS_UNCLAIMED;
	if ((where & FDB_PLACE_MASK) != place_now) {
		if (!fdb_take_from(place.bucket, place.way, key, where))
			return fresh;
		*seen = now;
		place.bucket->where[place.way & 3] = (where & ~FDB_PLACE_MASK) | place_now;
		FDB_CHANGED();
		fdb_count(FDB_MOVED);
		return fresh;
	}
	if (where & FDB_STATIC || idle <= refresh)
		return PASS_UNCLAIMED;
	*seen = now; /* written when it changes only: the line stays shared between CPUs */
	if (idle > PYDP_FDB_AGEING) {
		fdb_count(FDB_AGED);
		fdb_count(FDB_LEARNED);
	}
	return fresh;
}

static __always_inline enum verdict fdb_learn(__u64 key, __u64 seed, __u32 place_now, __u32 now, const bool below)
{
	bool known = false;
	return fdb_note(key, seed, place_now, now, below, &known);
}

/* Empty a place of KEY. False when another CPU was quicker. */
static __always_inline bool fdb_clear(struct fdb_bucket *bucket, __u32 way, __u64 key, __u32 where)
{
	if (!fdb_take_from(bucket, way, key, where))
		return false;
	__sync_val_compare_and_swap(&bucket->key[way & 3], key, 0);
	bucket->where[way & 3] = 0;
	FDB_CHANGED();
	return true;
}

/* Take KEY out, all places of it, and count them in FOUND. False when one of them was busy. */
static __always_inline bool fdb_delete(__u64 key, __u64 hash, __u32 *found)
{
	bool done = true;
#pragma unroll
	for (__u32 i = 0; i < 2 * FDB_WAYS; i++) {
		struct fdb_bucket *bucket = fdb_bucket(i < FDB_WAYS ? hash : hash >> 32);
		__u32 way = i % FDB_WAYS;
		if (!bucket || bucket->key[way] != key)
			continue;
		if (fdb_clear(bucket, way, key, bucket->where[way]))
			*found = 1;
		else
			done = false;
	}
	return done;
}
