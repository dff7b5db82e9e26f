// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The end of every program: a packet is counted once, under its verdict, and leaves.

/* Written by the datapath. Index: stage * VERDICTS + verdict. One map per port and hook. */
BPF_TABLE("percpu_array", __u32, struct counter, counters, STAGES *VERDICTS);

static __always_inline void count_verdict(__u32 stage, enum verdict verdict, __u32 length)
{
	if (!PYDP_COUNTERS)
		return;
	__u32 index = stage * VERDICTS + verdict;
	struct counter *counter = counters.lookup(&index);
	if (counter) {
		counter->packets++;
		counter->bytes += length;
	}
}

/* The one exit: translate a verdict that was counted into what the hook returns. */
static __always_inline int settle(hook_ctx *ctx, const struct packet *packet, enum verdict verdict)
{
	if (verdict != PASS_UNCLAIMED && verdict < CLASS_FLOOD && packet->turn)
		return hook_turn(ctx, packet->egress, packet->turn == TURN_BACK);
	if (verdict != PASS_UNCLAIMED && verdict < CLASS_FLOOD)
		return hook_redirect(ctx, packet->egress, packet->peer);
	if (packet->companion && verdict >= CLASS_PUNT && verdict < CLASS_DROP)
		return hook_redirect(ctx, packet->companion, false);
	return verdict == FLOOD_PORTS || verdict >= CLASS_DROP ? hook_drop() : hook_pass();
}
