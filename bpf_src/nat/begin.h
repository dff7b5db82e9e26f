// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A flow's first packet: whether and how it is translated, and noting that.

/* Could the packet begin a flow, as nf_conntrack has it? */
static __always_inline bool nat_begins(const struct tuple_view *view)
{
	if (view->protocol == IP_TCP)
		return nat_tcp_begins(view->tcp_flags);
	if (view->protocol == IP_ICMP)
		return view->icmp_type == 8;
	return view->protocol != IP_ICMPV6 || view->icmp_type == 128;
}

static __always_inline bool nat_same_address(const __be32 *one, const __be32 *other)
{
	return !((one[0] ^ other[0]) | (one[1] ^ other[1]) | (one[2] ^ other[2]) | (one[3] ^ other[3]));
}

/* The address of this host's that REDIRECT means: the one that was asked for, if it is; else that of the port. */
static __always_inline bool nat_own_address(struct nat_scratch *s, const struct nat_place *at, __be32 *address)
{
	if (nat_is_local(&s->name, s->view.tuple.daddr, s->view.version)) {
		__builtin_memcpy(address, s->view.tuple.daddr, 16);
		return true;
	}
	struct nat_device *device = nat_device(at->port->device);
	return device && nat_device_address(device, s->view.version, address);
}

/* Give the flow a backend of the service as its responder. */
static __always_inline bool nat_plan_backend(struct nat_scratch *s, const struct nat_place *at,
					     const struct nat_frontend *frontend)
{
	struct nat_plan *plan = &s->plan;
	__u32 chosen = nat_choose(s, frontend, at->now), number = chosen - 1;
	struct nat_backend *backend = chosen ? nat_backends.lookup(&number) : 0;
	if (!backend)
		return false;
	plan->backend = chosen;
	plan->generation = backend->generation;
	if (frontend->flags & NAT_FRONTEND_DSR) { /* nothing is translated */
		plan->flags |= NAT_FLOW_DSR;
		return true;
	}
	plan->flags |= NAT_FLOW_DESTINATION;
	s->reply.sport = backend->port;
	if (frontend->flags & NAT_FRONTEND_REDIRECT)
		return nat_own_address(s, at, s->reply.saddr);
	__builtin_memcpy(s->reply.saddr, backend->address, 16);
	return true;
}

/* Give a flow to a service another source where it needs one: if the service says so, if the backend is the client itself, if a rule holds for what
 * it is now (netfilter's POSTROUTING comes behind DNAT, too), if client and backend are on one bridge, which would take the answers past us, and
 * if both are this host, which does not take packets from itself, so that it seems to be the frontend. */
static __always_inline void nat_plan_service_source(hook_ctx *ctx, struct nat_scratch *s, const struct nat_place *at,
						    const struct nat_frontend *frontend)
{
	const struct tuple_view *view = &s->view;
	struct nat_plan *plan = &s->plan;
	if (plan->flags & NAT_FLOW_DSR)
		return;
	if (PYDP_EGRESS && !at->came_by) {
		plan->flags |= NAT_FLOW_HOST;
		if (!nat_is_local(&s->name, s->reply.saddr, view->version))
			return;
		__builtin_memcpy(s->reply.daddr, view->tuple.daddr, 16);
		plan->flags |= NAT_FLOW_SOURCE;
		return;
	}
	bool wanted = nat_same_address(s->reply.saddr, view->tuple.saddr) || frontend->flags & NAT_FRONTEND_MASQUERADE;
	const bool bridge = !PYDP_EGRESS && at->port->flags & NAT_PORT_BRIDGE;
	if (!wanted && !bridge && !PYDP_NAT_RULES)
		return;
	nat_inverse(&s->to, &s->reply);
	struct nat_way *way = nat_way_find(ctx, &s->to, at->port->device, view->version, view->protocol, at->now);
	struct nat_device *device = way && way->ifindex ? nat_device(way->ifindex) : 0;
	if (!device)
		return;
	wanted |= bridge && way->ifindex == at->port->device;
	bool ours = wanted ? nat_device_address(device, view->version, s->reply.daddr) :
			     nat_new_source(&s->to, view->version, device, s->reply.daddr);
	if (!ours) {
		__builtin_memcpy(s->reply.daddr, view->tuple.saddr, 16);
		return;
	}
	plan->flags |= NAT_FLOW_SOURCE;
	plan->ours = 1;
}

/* Does a packet leave with an address that others are given, as one of this host, or of somebody to whom the kernel's NAT gave it? */
static __always_inline bool nat_shares_source(const struct tuple_view *view, const struct nat_place *at)
{
	__be32 own[4];
	struct nat_device *device = nat_device(at->port->ifindex);
	if (device && nat_device_address(device, view->version, own) && nat_same_address(own, view->tuple.saddr))
		return true;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < PYDP_NAT_RULES; i++) {
		__u32 number = i;
		struct nat_rule *rule = nat_rules.lookup(&number);
		if (rule && rule->version == view->version && nat_same_address(rule->to, view->tuple.saddr))
			return true;
	}
	return false;
}

/* Give a flow that is for no service the source that a rule says. What leaves with an address that others get is noted as well, so that no two of
 * them have one port. False if nothing is to be done about it. */
static __always_inline bool nat_plan_source(hook_ctx *ctx, struct nat_scratch *s, const struct nat_place *at)
{
	const struct tuple_view *view = &s->view;
	if (!PYDP_NAT_RULES)
		return false;
	__u32 ifindex = at->port->ifindex;
	if (!PYDP_EGRESS) {
		struct nat_way *way =
			nat_way_find(ctx, &view->tuple, at->port->device, view->version, view->protocol, at->now);
		ifindex = way ? way->ifindex : 0;
	}
	struct nat_device *device = ifindex ? nat_device(ifindex) : 0;
	if (!device)
		return false;
	if (nat_new_source(&view->tuple, view->version, device, s->reply.daddr)) {
		s->plan.flags |= NAT_FLOW_SOURCE;
		s->plan.ours = 1;
		return true;
	}
	bool opens = view->protocol != IP_TCP || view->tcp_flags & TCP_SYN;
	__builtin_memcpy(s->reply.daddr, view->tuple.saddr, 16);
	return PYDP_EGRESS && opens && nat_shares_source(view, at);
}

/* Write the flow that was planned into its record. */
static __always_inline void nat_write(struct nat_scratch *s, const struct nat_place *at, struct nat_flow *flow)
{
	const struct tuple_view *view = &s->view;
	const struct nat_plan *plan = &s->plan;
	bool picked_up = view->protocol == IP_TCP && !(view->tcp_flags & TCP_SYN);
	flow->original = view->tuple;
	flow->reply = s->reply;
	flow->protocol = view->protocol;
	flow->version = view->version;
	flow->state = NAT_STATE_NONE;
	flow->flags = plan->flags | (picked_up ? NAT_FLOW_PICKED_UP : 0);
	flow->backend = plan->backend;
	flow->generation = plan->generation;
	flow->device = plan->flags & NAT_FLOW_HOST ? at->port->ifindex : 0;
	flow->packets[0] = flow->packets[1] = flow->bytes[0] = flow->bytes[1] = 0;
	if (picked_up)
		nat_count_event(NAT_EVENT_PICKED_UP);
}

/* Have a reply tuple of its own for the flow that was planned, and its hash. False if it has none yet, and the packet's next run may find one. */
static __always_inline bool nat_settle_reply(hook_ctx *ctx, struct nat_scratch *s, const struct nat_place *at)
{
	const struct tuple_view *view = &s->view;
	struct nat_plan *plan = &s->plan;
	struct nat_found other = {};
	if (s->run) {
		plan->flags |= NAT_FLOW_SOURCE;
		if (s->run == 1)
			s->next = bpf_get_prandom_u32();
		if (!nat_other_port(&s->reply, view->protocol, view->version, at->seed, at->now, &s->next))
			return false;
		plan->ours |= PYDP_EGRESS; /* the socket that it is from, if that is here, has another port */
	}
	s->reply_hash = nat_hash(&s->reply, view->protocol, view->version, at->seed);
	if (nat_find(&s->reply, view->protocol, view->version, s->reply_hash, &other)) {
		__u64 life = other.flow->life;
		if (other.number + 1 != plan->stale &&
		    (nat_lives(life, at->now) || !nat_end(other.flow, other.number, life, at->seed, at->now)))
			return false;
	}
	return !plan->ours || !nat_has_socket(ctx, &s->reply, view->protocol, view->version);
}

/* Have a record for the flow that was planned, and let it be found. Gives PASS_UNCLAIMED when it is. */
static __always_inline enum verdict nat_note(struct nat_scratch *s, const struct nat_place *at)
{
	struct nat_found found = {};
	if (!nat_claim(s, &found, at->seed, at->now)) /* of one that is over, another CPU has the record by now */
		return s->plan.stale ? DROP_RACE : DROP_FULL;
	nat_write(s, at, found.flow);
	__u32 failed = nat_enter_both(found.flow, found.number, s->hash, s->reply_hash);
	if (failed) {
		nat_leave(found.flow, found.number, at->seed);
		found.flow->life = 0;
		return failed == 1 ? DROP_FULL : DROP_RACE;
	}
	found.flow->life = nat_life_after(found.flow, &s->view, 0, at->now);
	s->plan.noted = found.number + 1;
	nat_count_event(NAT_EVENT_CREATED);
	if (s->plan.moved)
		nat_count_event(NAT_EVENT_MOVED);
	return PASS_UNCLAIMED;
}

/* Count what kept a flow from being noted. */
static __always_inline void nat_count_refused(const struct nat_plan *plan, enum verdict verdict)
{
	nat_count_event(verdict == DROP_FULL  ? NAT_EVENT_FULL :
			verdict == DROP_PORTS ? NAT_EVENT_EXHAUSTED :
						NAT_EVENT_LATE);
	if (plan->service && verdict != DROP_RACE)
		nat_count_failure(plan->service - 1, verdict == DROP_FULL ? NAT_FAILURE_FULL : NAT_FAILURE_EXHAUSTED);
}

/* Plan a flow if one is to begin with this packet: false if none is. Gives a VERDICT other than PASS_UNCLAIMED if it cannot. */
static __always_inline bool nat_plan(hook_ctx *ctx, struct nat_scratch *s, const struct nat_place *at,
				     enum verdict *verdict)
{
	struct nat_plan *plan = &s->plan;
	struct nat_device *from = PYDP_EGRESS && at->came_by ? nat_device(at->came_by) : 0;
	bool seen = from && from->flags & NAT_DEVICE_PORT; /* it was looked at where it came in */
	const struct nat_frontend *frontend = &s->frontend;
	plan->service = plan->backend = plan->generation = plan->flags = plan->ours = plan->noted = 0;
	nat_inverse(&s->reply, &s->view.tuple);
	if (seen || !s->served)
		return nat_plan_source(ctx, s, at);
	plan->service = frontend->service + 1;
	if (!nat_plan_backend(s, at, frontend)) {
		const bool elsewhere = frontend->flags & NAT_FRONTEND_ELSEWHERE;
		if (HOOK_OPENS_IP || elsewhere) /* what is to be answered XDP leaves to tc */
			nat_count_failure(frontend->service, NAT_FAILURE_BACKEND);
		*verdict = elsewhere ? DROP_ELSEWHERE : HOOK_OPENS_IP ? FORWARD_REJECT : PUNT_NAT;
	} else {
		nat_plan_service_source(ctx, s, at, frontend);
	}
	return true;
}

/* Could a flow begin with this packet? Quick, and not wrong where it says no. Keeps the frontend that it is addressed to. */
static __always_inline bool nat_concerns(struct nat_scratch *s, const struct nat_place *at)
{
	const struct tuple_view *view = &s->view;
	if (view->kind != TUPLE_FLOW || !nat_begins(view))
		return false;
	struct nat_frontend *frontend = nat_frontend(s);
	if (PYDP_EGRESS && !at->came_by)
		frontend = nat_frontend_of_host(s, frontend);
	s->served = !!frontend;
	if (frontend) {
		s->frontend = *frontend;
		return true;
	}
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < PYDP_NAT_RULES; i++) {
		__u32 number = i;
		struct nat_rule *rule = nat_rules.lookup(&number);
		if (rule && rule->version == view->version && nat_within(view->tuple.saddr, rule))
			return true;
	}
	return PYDP_NAT_RULES && PYDP_EGRESS && nat_shares_source(view, at);
}

/* XDP begins what it can send out itself. */
static __always_inline bool nat_leaves(hook_ctx *ctx, struct nat_scratch *s, const struct nat_place *at)
{
	nat_inverse(&s->to, &s->reply);
	s->task.exit = NAT_EXIT_NONE;
	nat_decide_forward(ctx, s, at);
	return s->task.exit == NAT_EXIT_DIRECT && !s->task.mtu && !(s->plan.flags & NAT_FLOW_DSR);
}

/* Begin a flow if one is to be. Gives PASS_UNCLAIMED if nothing went wrong: the plan says then whether one was noted. */
static __always_inline enum verdict nat_begin(hook_ctx *ctx, struct nat_scratch *s, const struct nat_place *at)
{
	enum verdict verdict = PASS_UNCLAIMED;
	if (!nat_plan(ctx, s, at, &verdict) || verdict != PASS_UNCLAIMED)
		return verdict;
	if (!HOOK_OPENS_IP && !nat_leaves(ctx, s, at))
		return PUNT_NAT;
	if (!nat_settle_reply(ctx, s, at)) {
		if (s->run++ < NAT_RUNS)
			nat_tails.call(ctx, NAT_BEGIN);
		verdict = DROP_PORTS;
	} else {
		verdict = nat_note(s, at);
		if (verdict == DROP_FULL && s->look++ < NAT_LOOKS)
			nat_tails.call(ctx, NAT_BEGIN);
	}
	if (verdict != PASS_UNCLAIMED)
		nat_count_refused(&s->plan, verdict);
	return verdict;
}
