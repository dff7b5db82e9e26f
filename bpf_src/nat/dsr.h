// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Direct server return: a packet goes to its backend unchanged, in an IP packet of its own (RFC 2003, RFC 2473), and the backend, which has the
// frontend's address, answers the client itself. As IPVS' tunnelling does it.

enum nat_dsr {
	NAT_DSR_PROTOCOL4 = 4, /* IPv4 in IP */
	NAT_DSR_PROTOCOL6 = 41, /* IPv6 in IP */
	NAT_DSR_ECN = 3, /* bits of TOS (RFC 3168 5) */
	NAT_DSR_ECT0 = 2,
	NAT_DSR_CE = 3,
};

/* Make room in front of the packet, and write the outer header there. */
static __always_inline bool nat_dsr_wrap(hook_ctx *ctx, const struct tuple_view *view, const struct nat_tuple *to,
					 const bool ipv6)
{
	const __u32 size = ipv6 ? 40 : 20;
	const __u64 flags = ipv6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	__u8 ecn = view->tos & NAT_DSR_ECN;
	struct ethernet header;
	void *data = hook_data(ctx);
	if (data + ETH_HLEN > hook_data_end(ctx))
		return false;
	ethernet_read(&header, data);
	struct outer outer = {
		.saddr = to->saddr,
		.daddr = to->daddr,
		.payload = view->length,
		.id = bpf_get_prandom_u32(),
		.tos = (view->tos & ~NAT_DSR_ECN) | (ecn == NAT_DSR_CE ? NAT_DSR_ECT0 : ecn),
		.ttl = ipv6 ? PYDP_NAT_HOP_LIMIT : PYDP_NAT_TTL,
		.protocol = ipv6 ? NAT_DSR_PROTOCOL6 : NAT_DSR_PROTOCOL4,
		.df = view->df,
	};
	if (!hook_open(ctx, size, flags))
		return false;
	data = hook_data(ctx);
	if (data + ETH_HLEN + size > hook_data_end(ctx))
		return false;
	ethernet_write(data, &header);
	outer_header_write(data + ETH_HLEN, &outer, ipv6);
	return true;
}

/* Decide where the packet goes, its backend's address being the task's destination. */
static __always_inline void nat_dsr_decide(hook_ctx *ctx, struct nat_scratch *s, const struct nat_place *at)
{
	const struct tuple_view *view = &s->view;
	struct nat_task *task = &s->task;
	__u32 room = view->version == 6 ? 40 : 20;
	__u8 protocol = view->version == 6 ? NAT_DSR_PROTOCOL6 : NAT_DSR_PROTOCOL4;
	struct nat_way *way = nat_way_find(ctx, &s->to, at->port->device, view->version, protocol, at->now);
	struct nat_device *device = way && way->ifindex ? nat_device(way->ifindex) : 0;
	task->verdict = PUNT_ROUTE;
	if (!way || !device || !nat_device_address(device, view->version, s->to.saddr))
		return;
	task->verdict = PUNT_TTL;
	if (view->ttl <= 1)
		return;
	if (nat_piece_length(ctx, view) + room > way->mtu) {
		task->verdict = DROP_MTU;
		task->mtu = view->df ? way->mtu - room : 0;
		return;
	}
	bool ready = nat_way_ready(way, at->now);
	task->verdict = PUNT_NAT;
	if (!HOOK_OPENS_IP && (!ready || !(device->flags & NAT_DEVICE_XDP)))
		return;
	task->verdict = FORWARD_ENCAP;
	task->exit = ready && !PYDP_EGRESS ? NAT_EXIT_DIRECT : NAT_EXIT_ROUTED;
	task->device = way->ifindex;
	task->peer = 0;
	task->seen = !!(device->flags & NAT_DEVICE_PORT);
	task->header = way->header;
}

/* Send a packet of FLOW to its backend. */
static __always_inline enum verdict nat_dsr(hook_ctx *ctx, struct packet *packet, struct nat_scratch *s,
					    const struct nat_place *at, const struct nat_flow *flow)
{
	struct nat_task *task = &s->task;
	__u32 number = flow->backend - 1;
	struct nat_backend *backend = nat_backends.lookup(&number);
	if (!backend)
		return PUNT_ERROR;
	task->exit = NAT_EXIT_NONE;
	task->mtu = 0;
	__builtin_memcpy(s->to.daddr, backend->address, 16);
	__builtin_memset(s->to.saddr, 0, 16);
	nat_dsr_decide(ctx, s, at);
	if (task->exit == NAT_EXIT_NONE)
		return task->verdict;
	/* A router it passes, unless it comes from here. */
	if (!PYDP_EGRESS && !rewrite(ctx, &s->view, &s->view.tuple, true))
		return DROP_ERROR;
	bool wrapped = s->view.version == 6 ? nat_dsr_wrap(ctx, &s->view, &s->to, true) :
					      nat_dsr_wrap(ctx, &s->view, &s->to, false);
	return wrapped && nat_leave_by(ctx, packet, task) ? task->verdict : DROP_ERROR;
}
