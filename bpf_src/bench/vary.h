// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Makes one frame after the other out of the same bytes: the kernel gives a test run its packet back as it was left.

#include "bench/frame.h"

/* Written by Python. Index: number of the frame modulo BENCH_DRAWS. */
BPF_TABLE("array", __u32, struct bench_draw, bench_draws, BENCH_DRAWS);
/* Written by the datapath: number of the next frame. One CPU generates at a time. */
BPF_TABLE("array", __u32, __u64, bench_number, 1);

/* An address: enum bench_side in two bytes, the number in four. */
static __always_inline void bench_write_address(void *at, __u16 side, __u32 number)
{
	*(__be16 *)at = bpf_htons(side);
	*(__be32 *)(at + 2) = bpf_htonl(number);
}

/* Make what lies from DATA to END the next frame. False if it is too short. */
static __always_inline bool bench_vary(void *data, void *end, __u16 source_side, __u16 dest_side)
{
	__u32 zero = 0;
	__u64 *next = bench_number.lookup(&zero);
	if (!next || data + BENCH_LENGTH > end)
		return false;
	__u64 number = (*next)++;
	__u32 index = number & (BENCH_DRAWS - 1);
	struct bench_draw *draw = bench_draws.lookup(&index);
	if (!draw)
		return false;
	bench_write_address(data, dest_side, draw->dest);
	bench_write_address(data + 6, source_side, draw->source);
	*(__u64 *)(data + BENCH_NUMBER) = number;
	*(__u64 *)(data + BENCH_CHECK) = bench_check(number, draw->source, draw->dest);
	return true;
}
