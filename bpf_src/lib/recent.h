// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What a CPU has found out lately, so that the next packets need not have it found out again: where and for how long it is kept.
//
// A record is good for the instant of its stamp, a few jiffies. So what goes by time, such as ages and next hops, is seen to by the long way
// once an instant. Who makes a record takes the stamp before it reads what the record is made from. Two keys that meet at one place take turns
// there.

enum recent_limit {
	RECENT_PLACES = 4096, /* records of a kind and CPU, a power of two */
	RECENT_SHIFT = 2, /* jiffies to instants: 4 ms with HZ 1000, 16 ms with HZ 250, 40 ms with HZ 100 */
};

/* This instant; never 0, which an empty record has. */
static __always_inline __u64 recent_instant(void)
{
	return bpf_jiffies64() >> RECENT_SHIFT;
}

/* Have POINTER computed once: what lies far from the beginning of an element would have its distance added with each access. */
#define RECENT_AT(pointer) asm volatile("" : "+r"(pointer))

static __always_inline __u32 recent_place(__u64 key)
{
	return key * 0x9e3779b97f4a7c15ULL >> 40 & (RECENT_PLACES - 1);
}
