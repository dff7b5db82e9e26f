// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A packet of a known flow: where it goes, translating it, and sending it there.

/* How long the packet, or each of the pieces that it is cut into, is for the path. */
static __always_inline __u32 nat_piece_length(hook_ctx *ctx, const struct tuple_view *view)
{
	__u32 size = hook_gso_size(ctx), at = view->transport & TUPLE_MASK;
	if (!size)
		return view->length;
	__u8 *tcp = hook_data(ctx) + at;
	bool is_tcp = view->protocol == IP_TCP && (void *)(tcp + 13) <= hook_data_end(ctx);
	return size + at - view->network + (is_tcp ? (tcp[12] >> 4) * 4 : 8);
}

/* The stack is to have it, since the way it would take is not for us. If only its source would change it goes as it is, and the program on the way
 * out does that, so that it does not seem to come from where it cannot (rp_filter). */
static __always_inline void nat_by_stack(struct nat_task *task, enum verdict why)
{
	task->verdict = !HOOK_OPENS_IP ? PUNT_NAT : why;
	if (!HOOK_OPENS_IP || !(task->flags & NAT_TASK_DESTINATION))
		return;
	task->verdict = PASS_NAT;
	task->exit = NAT_EXIT_STACK;
}

/* On the way in, past the stack. */
static __always_inline void nat_decide_forward(hook_ctx *ctx, struct nat_scratch *s, const struct nat_place *at)
{
	const struct tuple_view *view = &s->view;
	struct nat_task *task = &s->task;
	struct nat_way *way = nat_way_find(ctx, &s->to, at->port->device, view->version, view->protocol, at->now);
	if (!way || !way->ifindex) {
		nat_by_stack(task, PUNT_ROUTE);
		return;
	}
	if (view->ttl <= 1) {
		task->verdict = PUNT_TTL;
		return;
	}
	if (nat_piece_length(ctx, view) > way->mtu) {
		if (view->df)
			task->mtu = way->mtu;
		else
			nat_by_stack(task, PUNT_TOO_BIG);
		return;
	}
	struct nat_device *device = nat_device(way->ifindex);
	bool ready = nat_way_ready(way, at->now);
	if (!HOOK_OPENS_IP && (!ready || !device || !(device->flags & NAT_DEVICE_XDP)))
		return;
	task->verdict = FORWARD_NAT;
	task->exit = ready ? NAT_EXIT_DIRECT : NAT_EXIT_ROUTED;
	task->device = way->ifindex;
	task->longest = way->mtu + ETH_HLEN;
	task->peer = ready && device && device->flags & NAT_DEVICE_PEER;
	task->seen = !task->peer && device && device->flags & NAT_DEVICE_PORT;
	task->header = way->header;
}

static __always_inline void nat_decide_in(hook_ctx *ctx, struct nat_scratch *s, const struct nat_place *at,
					  const struct nat_flow *flow)
{
	struct nat_task *task = &s->task;
	if (!(task->flags & NAT_TASK_HOME)) {
		nat_decide_forward(ctx, s, at);
		return;
	}
	if (!HOOK_OPENS_IP)
		return;
	/* Back by the device that the request left by, unless any will do: the kernel may ask for that (rp_filter). */
	bool here = at->port->device == flow->device || at->port->flags & NAT_PORT_LOOSE || s->view.version == 6;
	task->device = flow->device;
	task->exit = here ? NAT_EXIT_STACK : NAT_EXIT_BACK;
	task->verdict = here ? PASS_NAT : FORWARD_NAT;
}

/* On the way out: in its place, if it still goes where it was going. */
static __always_inline void nat_decide_out(hook_ctx *ctx, struct nat_scratch *s, const struct nat_place *at,
					   const struct nat_flow *flow)
{
	const struct tuple_view *view = &s->view;
	struct nat_task *task = &s->task;
	if (!(task->flags & NAT_TASK_DESTINATION)) {
		task->verdict = PASS_NAT;
		task->exit = NAT_EXIT_STACK;
		return;
	}
	task->verdict = FORWARD_NAT;
	task->exit = NAT_EXIT_BACK;
	task->device = flow->device;
	if (task->flags & NAT_TASK_HOME)
		return;
	struct nat_way *way = nat_way_find(ctx, &s->to, at->port->device, view->version, view->protocol, at->now);
	bool routed = way && way->ifindex;
	/* The stack has cut it up for the way to where it was going. If it is this host's that is told, also where it may be cut up: then the stack
	 * does that (ipv4_update_pmtu), as nobody could here. */
	if (routed && nat_piece_length(ctx, view) > way->mtu) {
		task->verdict = DROP_MTU;
		task->exit = NAT_EXIT_NONE;
		task->mtu = at->came_by || view->kind != TUPLE_FLOW ? 0 : way->mtu;
		return;
	}
	/* Else it is for this host, or for nowhere, which the stack then says. */
	task->exit = routed ? NAT_EXIT_ROUTED : NAT_EXIT_BACK;
	task->device = routed ? way->ifindex : at->port->device;
	struct nat_device *device = routed ? nat_device(way->ifindex) : 0;
	task->seen = device && device->flags & NAT_DEVICE_PORT;
}

/* Have the packet go back into the stack as if it had come in by DEVICE. */
static __always_inline bool nat_turn_back(hook_ctx *ctx, struct packet *packet, __u32 ifindex)
{
	struct nat_device *device = nat_device(ifindex);
	__u8 *data = hook_data(ctx);
	if (!device || (void *)data + ETH_HLEN > hook_data_end(ctx))
		return false;
	*(__u32 *)data = device->mac;
	*(__u16 *)(data + 4) = device->mac >> 32;
	packet->egress = ifindex;
	packet->turn = TURN_BACK;
	return true;
}

/* Have the translated packet leave as it was decided. */
static __always_inline bool nat_leave_by(hook_ctx *ctx, struct packet *packet, const struct nat_task *task)
{
	if (task->exit == NAT_EXIT_BACK)
		return nat_turn_back(ctx, packet, task->device);
	if (task->seen)
		hook_mark_done(ctx);
	packet->egress = task->device;
	packet->peer = task->peer;
	packet->turn = task->exit == NAT_EXIT_ROUTED ? TURN_ROUTED : 0;
	if (task->exit != NAT_EXIT_DIRECT)
		return true;
	void *data = hook_data(ctx);
	struct ethernet header = task->header;
	if (data + ETH_HLEN > hook_data_end(ctx))
		return false;
	header.ethertype = packet->ethertype;
	ethernet_write(data, &header);
	return true;
}

static __always_inline bool nat_translate(hook_ctx *ctx, struct nat_scratch *s, bool age, const enum nat_kind kind)
{
	if (kind == NAT_ERROR)
		return rewrite_error(ctx, &s->view, &s->quoted, &s->to, &s->quoted_to, age);
	return rewrite(ctx, &s->view, &s->to, age);
}

/* Decide where a packet of FLOW goes. */
static __always_inline void nat_decide(hook_ctx *ctx, struct nat_scratch *s, const struct nat_place *at,
				       const struct nat_flow *flow)
{
	struct nat_task *task = &s->task;
	task->verdict = PUNT_NAT;
	task->exit = NAT_EXIT_NONE;
	task->mtu = task->peer = task->seen = 0;
	if (PYDP_EGRESS)
		nat_decide_out(ctx, s, at, flow);
	else
		nat_decide_in(ctx, s, at, flow);
}

/* Translate a packet of FLOW, and send it on. With DECIDED it is known where to. */
static __always_inline enum verdict nat_deliver(hook_ctx *ctx, struct packet *packet, struct nat_scratch *s,
						const struct nat_place *at, const struct nat_flow *flow,
						const enum nat_kind kind, const bool decided)
{
	struct nat_task *task = &s->task;
	if (!(task->flags & (NAT_TASK_SOURCE | NAT_TASK_DESTINATION)))
		return PASS_UNCLAIMED;
	if (!decided)
		nat_decide(ctx, s, at, flow);
	if (task->exit == NAT_EXIT_NONE)
		return task->verdict;
	if (s->view.protocol == IP_SCTP && s->view.first && tuple_ports(&s->to) != tuple_ports(&s->view.tuple))
		return PUNT_FRAGMENT; /* its checksum is over a packet whose length nobody knows yet */
	bool aged = !PYDP_EGRESS && (task->exit == NAT_EXIT_DIRECT || task->exit == NAT_EXIT_ROUTED);
	if (!nat_translate(ctx, s, aged, kind) || !nat_leave_by(ctx, packet, task))
		return DROP_ERROR;
	return task->verdict;
}
