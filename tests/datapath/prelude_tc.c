// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Programs that bring a frame into a state that a test run cannot give it, then call the program under test.

BPF_PROG_ARRAY(prelude_next, 1);
BPF_TABLE("array", __u32, __u32, prelude_runs, 1);

/* Cut the frame to as many bytes as its mark says: the kernel makes no frame for a test run that ends within an IP header. */
static __always_inline bool cut(hook_ctx *ctx)
{
	return !ctx->mark || !bpf_skb_change_tail(ctx, ctx->mark, 0);
}

struct prelude_tunnel {
	__u32 vni;
	__be32 remote[4]; /* IPv4 in the first word */
	__u32 ipv6;
};

BPF_TABLE("array", __u32, struct prelude_tunnel, prelude_tunnels, 1);

/* With the metadata of a frame that a tunnel device of the kernel took out of its packet. */
int prelude_described(hook_ctx *ctx)
{
	struct bpf_tunnel_key key = {};
	__u32 zero = 0;
	struct prelude_tunnel *tunnel = prelude_tunnels.lookup(&zero);
	if (!tunnel)
		return TC_ACT_OK;
	key.tunnel_id = tunnel->vni;
	if (tunnel->ipv6)
		__builtin_memcpy(key.local_ipv6, tunnel->remote, 16); /* on receive the remote end is the source */
	else
		key.local_ipv4 = bpf_ntohl(tunnel->remote[0]);
	if (bpf_skb_set_tunnel_key(ctx, &key, sizeof(key), tunnel->ipv6 ? BPF_F_TUNINFO_IPV6 : 0))
		return TC_ACT_OK;
	prelude_next.call(ctx, 0);
	return TC_ACT_OK;
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
