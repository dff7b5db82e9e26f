// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Sends frames out of the device that they seem to have come from, as fast as BPF_PROG_TEST_RUN makes live frames.

#include <uapi/linux/bpf.h>

#include "bench/vary.h"

int bench_send(struct xdp_md *ctx)
{
	bool made = bench_vary((void *)(long)ctx->data, (void *)(long)ctx->data_end, BENCH_SOURCE, BENCH_DEST);
	return made ? XDP_TX : XDP_ABORTED;
}
