// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Takes the generator's frames where they arrive, on either hook: counts them and looks whether they are whole. All else is
// left to the stack.

#include <uapi/linux/in.h>

#include "bench/frame.h"
#include "bench/delay.h"

enum bench_mark {
	BENCH_MARK_EVERY = 1024, /* frames from one look at the clock to the next: then looking costs nothing */
	BENCH_MARKS = 4096, /* times kept */
};

struct bench_arrival {
	__u64 packets; /* frames of the generator */
	__u64 bytes;
	__u64 corrupt; /* of these, frames whose check does not fit their number and addresses */
	__u64 disordered; /* of these, frames with a lower number than one before */
	__u64 highest; /* number seen */
};

/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct bench_arrival, bench_arrivals, 1);

/* Written by the datapath: when the frames came whose number is divisible by BENCH_MARK_EVERY, in ns. Index: number /
 * BENCH_MARK_EVERY modulo BENCH_MARKS. */
BPF_TABLE("array", __u32, __u64, bench_marks, BENCH_MARKS);

static __always_inline void bench_mark(__u64 number)
{
	__u32 index = number / BENCH_MARK_EVERY & (BENCH_MARKS - 1);
	__u64 *mark = bench_marks.lookup(&index);
	if (mark)
		*mark = bpf_ktime_get_ns();
}

/* What is looked for begins so many bytes into the frame: behind what a tunnel puts in front. */
#define BENCH_OFFSET CONSTANT(0)

static __always_inline int bench_take(hook_ctx *ctx, struct bench_arrival *arrival, void *frame, __u32 source,
				      __u32 dest)
{
	__u64 number = *(__u64 *)(frame + BENCH_NUMBER);
	arrival->packets++;
	arrival->bytes += hook_length(ctx);
	if (*(__u64 *)(frame + BENCH_CHECK) != bench_check(number, source, dest))
		arrival->corrupt++;
	if (number < arrival->highest)
		arrival->disordered++;
	else
		arrival->highest = number;
	if (BENCH_TIMED)
		bench_arrive(bpf_ktime_get_ns(), number);
	else if (!(number & (BENCH_MARK_EVERY - 1)))
		bench_mark(number);
	return hook_drop();
}

static __always_inline int bench_take_frame(hook_ctx *ctx, __u64 offset)
{
	void *data = hook_data(ctx) + offset, *end = hook_data_end(ctx);
	__u32 zero = 0;
	struct bench_arrival *arrival = bench_arrivals.lookup(&zero);
	if (!arrival || data + BENCH_LENGTH > end || *(__be16 *)data != bpf_htons(BENCH_DEST))
		return hook_pass();
	__u32 dest = bpf_ntohl(*(__be32 *)(data + 2)), source = bpf_ntohl(*(__be32 *)(data + 8));
	return bench_take(ctx, arrival, data, source, dest);
}

/* Frames as bench_send() makes them. */
int bench_sink(hook_ctx *ctx)
{
	return bench_take_frame(ctx, 0);
}

/* The same behind what a tunnel has put in front. */
int bench_sink_frame(hook_ctx *ctx)
{
	return bench_take_frame(ctx, BENCH_OFFSET);
}

/* Packets of bench_send_packet(): IPv4 without options, and UDP from and to BENCH_PORT. */
int bench_sink_packet(hook_ctx *ctx)
{
	void *data = hook_data(ctx) + BENCH_OFFSET, *end = hook_data_end(ctx);
	__u32 zero = 0;
	struct bench_arrival *arrival = bench_arrivals.lookup(&zero);
	if (!arrival || data + BENCH_LENGTH - BENCH_ETHERNET > end)
		return hook_pass();
	if (*(__u8 *)data != 0x45 || *(__u8 *)(data + 9) != IPPROTO_UDP ||
	    *(__be32 *)(data + 20) != bpf_htonl(BENCH_PORT << 16 | BENCH_PORT))
		return hook_pass();
	__u32 source = bpf_ntohl(*(__be32 *)(data + 12)), dest = bpf_ntohl(*(__be32 *)(data + 16));
	return bench_take(ctx, arrival, data - BENCH_ETHERNET, source, dest);
}

#include "bench/nat_take.h"
