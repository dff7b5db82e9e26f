// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What Python asks of the conntrack table, done by the one who writes it.

enum nat_control_limit {
	NAT_REQUESTS = 4096, /* requests that one run takes */
};

/* End a flow: the record NUMBER, if it is still that of `original`. */
struct nat_request {
	struct nat_tuple original;
	__u32 number;
	__u8 protocol;
	__u8 version;
	__u16 result; /* 1 if it was ended */
};

struct nat_cursor {
	__u32 next; /* request to be done next */
	__u32 end; /* how many there are */
};

/* Written by Python, `result` by nat_control(). */
BPF_TABLE("array", __u32, struct nat_request, nat_requests, NAT_REQUESTS);
/* Set by Python, advanced by nat_control(). */
BPF_TABLE("array", __u32, struct nat_cursor, nat_cursor, 1);

/* False: packets of the flow were quicker, and the next run tries again. */
static __always_inline bool nat_end_asked(struct nat_request *request, __u64 seed, __u32 now)
{
	struct nat_flow *flow = nat_flow(request->number);
	if (!flow)
		return true;
	__u64 life = flow->life;
	if (nat_class(life) < NAT_CLASS_NEW || flow->protocol != request->protocol ||
	    flow->version != request->version || !nat_same(&flow->original, &request->original))
		return true;
	if (!nat_end(flow, request->number & (PYDP_NAT_FLOWS - 1), life, seed, now))
		return false;
	request->result = 1;
	return true;
}

/* Run by test-run until the cursor is at its end, never attached. */
int nat_control(hook_ctx *ctx)
{
	__u32 zero = 0;
	struct nat_cursor *cursor = nat_cursor.lookup(&zero);
	if (!cursor || cursor->next >= cursor->end)
		return 0;
	__u32 number = cursor->next;
	struct nat_request *request = nat_requests.lookup(&number);
	if (!request || nat_end_asked(request, STAGE_CONSTANT(STAGE_NAT, CONSTANT_SEED), nat_now()))
		cursor->next++;
	return 0;
}
