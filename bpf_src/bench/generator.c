// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Sends frames out of the device that they seem to have come from, as fast as BPF_PROG_TEST_RUN makes live frames.

#include <uapi/linux/bpf.h>

#include "abi.h"

#define BENCH_DRAWS_MASK CONSTANT(2)

#include "bench/vary.h"
#include "bench/nat_send.h"

/* What varies begins so many bytes into the frame: behind what a tunnel puts in front. */
#define BENCH_OFFSET CONSTANT(0)

int bench_send(struct xdp_md *ctx)
{
	bool made = bench_vary((void *)(long)ctx->data, (void *)(long)ctx->data_end, BENCH_SOURCE, BENCH_DEST);
	return made ? XDP_TX : XDP_ABORTED;
}

/* An Ethernet frame, in a tunnel or not. */
int bench_send_frame(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	bool made = bench_restore(data, end) && bench_vary(data + BENCH_OFFSET, end, BENCH_SOURCE, BENCH_DEST);
	return made ? XDP_TX : XDP_ABORTED;
}

/* An IPv4 packet, in a tunnel or not. */
int bench_send_packet(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	bool made = bench_restore(data, end) && bench_vary_packet(data + BENCH_OFFSET, end);
	return made ? XDP_TX : XDP_ABORTED;
}
