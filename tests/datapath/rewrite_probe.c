// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Reading, rewriting and answering packets, each in a program of its own that does what it is told by `rewrite_orders`.

struct rewrite_order {
	struct nat_tuple to; /* addresses and ports that the packet is to have, or the packet that an error quotes */
	struct nat_tuple outer; /* those of the error itself */
	__be32 source[4]; /* that of an answer, 0 for where the packet was going */
	__u32 info;
	__u8 age;
	__u8 type;
	__u8 code;
	__u8 back;
};

struct rewrite_result {
	struct tuple_view view;
	struct tuple_view quoted;
	__u32 read; /* what the functions gave: the headers could be read */
	__u32 quote; /* and those of the quoted packet */
	__u32 done; /* and the packet was changed */
};

BPF_TABLE("array", __u32, struct rewrite_order, rewrite_orders, 1);
BPF_TABLE("array", __u32, struct rewrite_result, rewrite_results, 1);

static __always_inline struct rewrite_order *probe_order(void)
{
	__u32 zero = 0;
	return rewrite_orders.lookup(&zero);
}

/* Read the packet; 0 if it is none to go on with. */
static __always_inline struct rewrite_result *probe_read(hook_ctx *ctx, struct packet *packet)
{
	__u32 zero = 0;
	struct rewrite_result *result = rewrite_results.lookup(&zero);
	if (!result)
		return 0;
	result->quote = result->done = 0;
	result->read = parse_packet(ctx, packet) && tuple_read(ctx, packet, &result->view);
	return result->read ? result : 0;
}

int probe_tuple(hook_ctx *ctx)
{
	struct packet packet = {};
	struct rewrite_result *result = probe_read(ctx, &packet);
	if (result && result->view.kind == TUPLE_ERROR)
		result->quote = tuple_read_quoted(ctx, &result->view, &result->quoted);
	return hook_pass();
}

int probe_rewrite(hook_ctx *ctx)
{
	struct packet packet = {};
	struct rewrite_order *order = probe_order();
	struct rewrite_result *result = probe_read(ctx, &packet);
	if (order && result && (result->view.kind == TUPLE_FLOW || result->view.kind == TUPLE_LATER))
		result->done = rewrite(ctx, &result->view, &order->to, order->age);
	return hook_pass();
}

int probe_error(hook_ctx *ctx)
{
	struct packet packet = {};
	struct rewrite_order *order = probe_order();
	struct rewrite_result *result = probe_read(ctx, &packet);
	if (!order || !result || result->view.kind != TUPLE_ERROR)
		return hook_pass();
	result->quote = tuple_read_quoted(ctx, &result->view, &result->quoted);
	if (result->quote)
		result->done =
			rewrite_error(ctx, &result->view, &result->quoted, &order->outer, &order->to, order->age);
	return hook_pass();
}

int probe_unreachable(hook_ctx *ctx)
{
	struct packet packet = {};
	struct rewrite_order *order = probe_order();
	struct rewrite_result *result = probe_read(ctx, &packet);
	if (!order || !result)
		return hook_pass();
	const __be32 *source = order->source[0] ? order->source : 0;
	result->done = answer_unreachable(ctx, &result->view, order->type, order->code, order->info, source);
	return hook_pass();
}

int probe_reset(hook_ctx *ctx)
{
	struct packet packet = {};
	struct rewrite_order *order = probe_order();
	struct rewrite_result *result = probe_read(ctx, &packet);
	if (order && result)
		result->done = answer_reset(ctx, &result->view, order->back);
	return hook_pass();
}
