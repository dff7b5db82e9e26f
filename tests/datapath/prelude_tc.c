// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Programs that bring a frame into a state that a test run cannot give it, then call the program under test.

BPF_PROG_ARRAY(prelude_next, 1);
BPF_TABLE("array", __u32, __u32, prelude_runs, 1);

/* Cut the frame to as many bytes as its mark says: the kernel makes no frame for a test run that ends within an IP header. */
static __always_inline bool cut(hook_ctx *ctx)
{
	return !ctx->mark || !bpf_skb_change_tail(ctx, ctx->mark, 0);
}

int prelude_cut(hook_ctx *ctx)
{
	if (cut(ctx))
		prelude_next.call(ctx, 0);
	return TC_ACT_OK;
}

/* Move the outermost VLAN tag into metadata, as the kernel does before tc. Run a second time on the same frame: put it back
 * where a test can see it, by pushing another one before it, which stays in metadata and is not shown. */
int prelude_untag(hook_ctx *ctx)
{
	__u32 zero = 0;
	__u32 *runs = prelude_runs.lookup(&zero);
	if (!runs)
		return TC_ACT_SHOT;
	if ((*runs)++) {
		if (ctx->vlan_present)
			bpf_skb_vlan_push(ctx, bpf_htons(ETH_P_8021Q), 1);
		return TC_ACT_SHOT;
	}
	if (!cut(ctx))
		return TC_ACT_OK;
	if (ctx->protocol == bpf_htons(ETH_P_8021Q) || ctx->protocol == bpf_htons(ETH_P_8021AD)) {
		__be16 *tag = hook_data(ctx) + 2 * ETH_ALEN;
		if ((void *)(tag + 2) > hook_data_end(ctx))
			return TC_ACT_OK;
		__be16 protocol = tag[0];
		__u16 tci = bpf_ntohs(tag[1]);
		if (bpf_skb_vlan_pop(ctx) || bpf_skb_vlan_push(ctx, protocol, tci))
			return TC_ACT_OK;
	}
	prelude_next.call(ctx, 0);
	return TC_ACT_OK;
}
