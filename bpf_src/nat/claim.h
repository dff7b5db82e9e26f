// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Writing the conntrack table (flows.h): having a record for a flow, and entering it in the index.
//
// Nobody cleans up: a record says up to when it lives, and whoever needs one takes the next that is free or has outlived its
// time, going round (`nat_hand`). Where all live, one that is not assured goes: a flood of SYNs or of random UDP has to make do with its own.
// Where none of those is found, a connection that is ending goes, as with the kernel (gc_worker() of nf_conntrack_core.c), and never another.
//
// Several CPUs write, and nobody waits. A record is taken by compare-and-swap of `life`, and written by who took it before it is entered in the
// index; a place of the index goes from 0 to its value, and back, by compare-and-swap. Two CPUs that enter one tuple at the same instant both
// find the other's entry afterwards: the record with the higher number goes.

enum nat_flows_limit {
	NAT_LOOKED_AT = 64, /* records that are looked at for a free one in one run */
	NAT_LOOKS = 7, /* further runs for one packet, in as many other parts of the table */
	NAT_LOOKS_NEW = 4, /* runs before connections that are ending go */
	NAT_BUSY_TICKS = 2, /* after which a record that is being written belongs to nobody */
	NAT_FULL_BUCKET = 6, /* entries with which a bucket is left for the other one, if that has fewer */
};

/* Written by the datapath: where each CPU goes on to look for a free record. */
BPF_TABLE("percpu_array", __u32, __u32, nat_hand, 1);

/* How many places are taken. */
static __always_inline __u32 nat_taken_places(const struct nat_bucket *bucket)
{
	__u32 taken = 0;
#pragma unroll
	for (int i = 0; i < NAT_WAYS; i++) {
		__u32 one = bucket->place[i] != 0;
		asm volatile("" : "+r"(one));
		taken += one;
	}
	return taken;
}

/* Put WANTED where WAS stands in one of the buckets of HASH, of which the second comes first with TURNED. Loops that write are not unrolled: the code
 * that is to be verified would be several times as long. */
static __always_inline bool nat_exchange(__u64 hash, bool turned, __u64 was, __u64 wanted)
{
	__u64 turn = turned ? hash << 32 | hash >> 32 : hash;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < 2 * NAT_WAYS; i++) {
		struct nat_bucket *bucket = nat_bucket(i < NAT_WAYS ? turn : turn >> 32);
		__u32 at = i & (NAT_WAYS - 1);
		if (!bucket)
			return false;
		if (bucket->place[at] == was && __sync_val_compare_and_swap(&bucket->place[at], was, wanted) == was)
			return true;
	}
	return false;
}

/* Enter a record in the index. In the first of the two buckets if it is not nearly full: most look-ups then end there. */
static __always_inline bool nat_enter(__u64 hash, __u32 number)
{
	struct nat_bucket *one = nat_bucket(hash), *other = nat_bucket(hash >> 32);
	if (!one || !other)
		return false;
	__u32 taken = nat_taken_places(one);
	bool turned = taken >= NAT_FULL_BUCKET && nat_taken_places(other) < taken;
	return nat_exchange(hash, turned, 0, nat_entry(hash, number));
}

/* Is a tuple that HASH is of the one of another record than NUMBER, too, which is to keep it? Hardly ever are there two. */
static __always_inline bool nat_rivalled(const struct nat_tuple *tuple, __u32 kind, __u64 hash, __u32 number)
{
	__u64 entry = nat_entry(hash, 0);
	struct nat_bucket *one = nat_bucket(hash), *two = nat_bucket(hash >> 32);
	if (!one || !two || nat_named(one, entry) + (one == two ? 0 : nat_named(two, entry)) == number + 1)
		return false;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < 2 * NAT_WAYS; i++) {
		struct nat_bucket *bucket = nat_bucket(i < NAT_WAYS ? hash : hash >> 32);
		if (!bucket)
			return false;
		__u64 place = bucket->place[i & (NAT_WAYS - 1)];
		__u32 other = (__u32)place - 1;
		if ((place ^ nat_entry(hash, 0)) >> 32 || other >= number)
			continue;
		struct nat_flow *flow = nat_flow(other);
		if (flow && *(__u16 *)&flow->protocol == kind &&
		    (nat_same(&flow->original, tuple) || nat_same(&flow->reply, tuple)))
			return true;
	}
	return false;
}

/* Enter a record under both its tuples, which have these hashes. Gives 0 when that is done, 1 if there is no room, 2 if another CPU was quicker. */
static __always_inline __u32 nat_enter_both(struct nat_flow *flow, __u32 number, __u64 original, __u64 reply)
{
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < 2; i++) {
		struct nat_tuple *tuple = i ? &flow->reply : &flow->original;
		__u64 hash = i ? reply : original;
		if (!nat_enter(hash, number))
			return 1;
		if (nat_rivalled(tuple, *(__u16 *)&flow->protocol, hash, number))
			return 2;
	}
	return 0;
}

/* Take a record that this CPU has taken out of the index. */
static __always_inline void nat_leave(struct nat_flow *flow, __u32 number, __u64 seed)
{
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < 2; i++) {
		struct nat_tuple *tuple = i ? &flow->reply : &flow->original;
		__u64 hash = nat_hash(tuple, flow->protocol, flow->version, seed);
		nat_exchange(hash, false, nat_entry(hash, number), 0);
	}
}

/* Take a record from whoever it is, as LIFE says. */
static __always_inline bool nat_take(struct nat_flow *flow, __u64 life, __u32 now)
{
	__u64 busy = (__u64)NAT_CLASS_BUSY << 32 | (__u32)(now + NAT_BUSY_TICKS);
	return __sync_val_compare_and_swap(&flow->life, life, busy) == life;
}

/* End a flow that this CPU may take. False: another one was quicker. */
static __always_inline bool nat_end(struct nat_flow *flow, __u32 number, __u64 life, __u64 seed, __u32 now)
{
	if (!nat_take(flow, life, now))
		return false;
	nat_leave(flow, number, seed);
	flow->life = 0;
	return true;
}

/* The next record that is free or over, or else one that may be made free, those that are ENDING (1) behind the others; its number plus one, 0 for
 * none. LIFE is what was seen of it. */
static __always_inline __u32 nat_next_free(__u32 now, __u32 ending, __u64 *life)
{
	__u32 zero = 0, victim = 0, rank = 0;
	__u32 *hand = nat_hand.lookup(&zero);
	if (!hand)
		return 0;
	if (!*hand) /* CPUs that begin alike would get in each other's way */
		*hand = bpf_get_prandom_u32();
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < NAT_LOOKED_AT; i++) {
		__u32 number = ++*hand & (PYDP_NAT_FLOWS - 1);
		struct nat_flow *flow = nat_flow(number);
		if (!flow)
			return 0;
		__u64 seen = flow->life;
		if (!seen || nat_over(seen, now)) {
			*life = seen;
			return number + 1;
		}
		__u32 class = nat_class(seen), first = nat_if_none(class ^ NAT_CLASS_NEW) & 2,
		      own = first | (nat_if_none(class ^ NAT_CLASS_CLOSING) & ending),
		      better = (__s32)(rank - own) >> 31; /* all bits set if it is */
		asm volatile("" : "+r"(better));
		rank |= own & better;
		victim = (victim & ~better) | ((number + 1) & better);
		if (better)
			*life = seen;
	}
	*hand += PYDP_NAT_FLOWS /
		 (NAT_LOOKS + 1); /* flows of one time stand side by side: there may be room elsewhere */
	return victim;
}

/* Have a record to write: the plan's stale one, or one that is free or can be made free. Its tuples are taken out of the index. Reads FOUND; false
 * if none was to be had. */
static __always_inline bool nat_claim(struct nat_scratch *s, struct nat_found *found, __u64 seed, __u32 now)
{
	__u64 life = s->plan.life;
	__u32 stale = s->plan.stale, number = stale;
	if (!stale)
		number = nat_next_free(now, s->look >= NAT_LOOKS_NEW, &life);
	struct nat_flow *flow = number ? nat_flow(number - 1) : 0;
	if (!flow)
		return false;
	if (nat_class(life) == NAT_CLASS_BUSY && !nat_over(life, now))
		return false;
	if (!nat_take(flow, life, now))
		return false;
	if (nat_class(life) >= NAT_CLASS_BUSY) {
		nat_count_event(nat_over(life, now) || stale ? NAT_EVENT_EXPIRED : NAT_EVENT_EVICTED);
		nat_leave(flow, number - 1, seed);
	}
	found->flow = flow;
	found->number = number - 1;
	found->way = 0;
	return true;
}
