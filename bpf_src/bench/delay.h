// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// How long frames were under way that say when they left (bench/pace.h), as a histogram whose buckets are 1/64 of a value
// wide or less.

/* Not 0: the number of a frame is the time it left at. */
#define BENCH_TIMED CONSTANT(3)

enum bench_delay {
	BENCH_STEPS = 6, /* bits of a value behind the first that tell buckets apart */
	BENCH_BUCKETS = 2048, /* up to 2^37 ns and more, which go into the last one */
};

/* Written by the datapath. Index: see bench_bucket(). */
BPF_TABLE("percpu_array", __u32, __u64, bench_delays, BENCH_BUCKETS);

/* Below 2^BENCH_STEPS the value itself; above, for each power of two as many buckets as BENCH_STEPS bits tell apart. */
static __always_inline __u32 bench_bucket(__u64 value)
{
	__u32 power = 0;
	__u64 rest = value >> BENCH_STEPS;
#pragma unroll
	for (int step = 32; step; step /= 2)
		if (rest >> step) {
			rest >>= step;
			power += step;
		}
	if (!rest)
		return value;
	__u32 bucket = ((power + 1) << BENCH_STEPS) + ((value >> power) & ((1 << BENCH_STEPS) - 1));
	return bucket < BENCH_BUCKETS ? bucket : BENCH_BUCKETS - 1;
}

/* A frame arrived NOW that left THEN. */
static __always_inline void bench_arrive(__u64 now, __u64 then)
{
	__u32 index = bench_bucket(now > then ? now - then : 0);
	__u64 *count = bench_delays.lookup(&index);
	if (count)
		(*count)++;
}
