// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Programs that bring a frame into a state that a test run cannot give it, then call the program under test.

enum prelude_limit {
	PRELUDE_ROOM = 64, /* bytes of headroom that are dirtied */
};

BPF_PROG_ARRAY(prelude_next, 1);

/* Headroom full of what another packet may have left there. */
int prelude_dirty(hook_ctx *ctx)
{
	if (bpf_xdp_adjust_head(ctx, -PRELUDE_ROOM))
		return XDP_ABORTED;
	__u64 *data = hook_data(ctx);
	if ((void *)data + PRELUDE_ROOM > hook_data_end(ctx))
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < PRELUDE_ROOM / 8; i++)
		data[i] = ~0ULL;
	if (bpf_xdp_adjust_head(ctx, PRELUDE_ROOM))
		return XDP_ABORTED;
	prelude_next.call(ctx, 0);
	return XDP_ABORTED;
}

/* Another source each time: its fifth byte says which of the 64 following ones are used. */
int prelude_hammer(hook_ctx *ctx)
{
	__u8 *data = hook_data(ctx);
	if ((void *)data + ETH_HLEN > hook_data_end(ctx))
		return XDP_ABORTED;
	data[11] = bpf_get_prandom_u32() & 63;
	prelude_next.call(ctx, 0);
	return XDP_ABORTED;
}
