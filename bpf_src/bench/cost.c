// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Put behind a composed program: what that costs per packet when every packet has other addresses.

#define BENCH_TIMED 0
#include "bench/vary.h"

/* Constants behind those of the stages: the side (enum bench_side) of each address. */
#define BENCH_SOURCE_SIDE CONSTANT(STAGES *STAGE_CONSTANTS)
#define BENCH_DEST_SIDE	  CONSTANT(STAGES *STAGE_CONSTANTS + 1)

/* An empty program. */
int bench_empty(hook_ctx *ctx)
{
	return hook_drop();
}

/* What varying the packet costs alone. */
int bench_varied_only(hook_ctx *ctx)
{
	bench_vary(hook_data(ctx), hook_data_end(ctx), BENCH_SOURCE_SIDE, BENCH_DEST_SIDE);
	return hook_drop();
}

/* The program, on a packet that is another one each time. */
int bench_varied(hook_ctx *ctx)
{
	if (!bench_vary(hook_data(ctx), hook_data_end(ctx), BENCH_SOURCE_SIDE, BENCH_DEST_SIDE))
		return hook_drop();
	return BENCH_PROGRAM(ctx);
}
