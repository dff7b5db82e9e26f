// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Makes one frame after the other out of the same bytes: the kernel gives a test run its packet back as it was left.

#include "bench/frame.h"
#include "bench/pace.h"

/* How every frame begins, before it is varied. */
struct bench_head {
	__u64 words[BENCH_HEAD / 8];
};

/* How many draws there are, less one: a power of two less one. */
#ifndef BENCH_DRAWS_MASK
#define BENCH_DRAWS_MASK (BENCH_DRAWS - 1)
#endif

/* Written by Python. Index: number of the frame modulo the count of draws. */
BPF_TABLE("array", __u32, struct bench_draw, bench_draws, BENCH_DRAWS);
/* Written by the datapath: number of the next frame. One CPU generates at a time. */
BPF_TABLE("array", __u32, __u64, bench_number, 1);
/* Written by Python. */
BPF_TABLE("array", __u32, struct bench_head, bench_heads, 1);

/* An address: enum bench_side in two bytes, the number in four. */
static __always_inline void bench_write_address(void *at, __u16 side, __u32 number)
{
	*(__be16 *)at = bpf_htons(side);
	*(__be32 *)(at + 2) = bpf_htonl(number);
}

/* The addresses of the next frame, and its NUMBER; NULL when there are none. */
static __always_inline struct bench_draw *bench_next(__u64 *number)
{
	__u32 zero = 0;
	__u64 *next = bench_number.lookup(&zero);
	if (!next)
		return NULL;
	*number = (*next)++;
	__u32 index = *number & BENCH_DRAWS_MASK;
	return bench_draws.lookup(&index);
}

/* Make what lies from DATA to END the next frame. False if it is too short. */
static __always_inline bool bench_vary(void *data, void *end, __u16 source_side, __u16 dest_side)
{
	__u64 number;
	if (data + BENCH_LENGTH > end)
		return false;
	struct bench_draw *draw = bench_next(&number);
	if (!draw)
		return false;
	bench_leave(&number);
	bench_write_address(data, dest_side, draw->dest);
	bench_write_address(data + 6, source_side, draw->source);
	*(__u64 *)(data + BENCH_NUMBER) = number;
	*(__u64 *)(data + BENCH_CHECK) = bench_check(number, draw->source, draw->dest);
	return true;
}

/* Write the head anew: who tunnels or routes writes into it, and the page comes back as it was left. */
static __always_inline bool bench_restore(void *data, void *end)
{
	__u32 zero = 0;
	struct bench_head *head = bench_heads.lookup(&zero);
	if (!head || data + sizeof(*head) > end)
		return false;
	*(struct bench_head *)data = *head;
	return true;
}

/* Make the IPv4 packet at DATA, with zero addresses and a check sum that fits them, the next one. */
static __always_inline bool bench_vary_packet(void *data, void *end)
{
	__u64 number;
	if (data + BENCH_LENGTH - BENCH_ETHERNET > end)
		return false;
	struct bench_draw *draw = bench_next(&number);
	if (!draw)
		return false;
	bench_leave(&number);
	__u32 source = bpf_htonl(draw->source), dest = bpf_htonl(draw->dest);
	__u32 sum = (__u16) ~*(__be16 *)(data + 10); /* RFC 1624 */
	sum += (source & 0xffff) + (source >> 16) + (dest & 0xffff) + (dest >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*(__be16 *)(data + 10) = ~sum;
	*(__be32 *)(data + 12) = source;
	*(__be32 *)(data + 16) = dest;
	*(__u64 *)(data + BENCH_NUMBER - BENCH_ETHERNET) = number;
	*(__u64 *)(data + BENCH_CHECK - BENCH_ETHERNET) = bench_check(number, draw->source, draw->dest);
	return true;
}
