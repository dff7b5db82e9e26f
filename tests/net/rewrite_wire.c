// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A wire between two ports on which one end has another address and other ports: what comes in by either leaves by the other. Packets for port
// 9 (discard) go back as a refusal.

struct rewrite_wire {
	__be32 inside[4]; /* address as it is in front of the wire */
	__be32 outside[4]; /* and behind it */
	__u32 here; /* ifindex of the port */
	__u32 there; /* and of the other one */
};

/* What was read, which has no room on the stack. */
struct rewrite_views {
	struct tuple_view view;
	struct tuple_view quoted;
};

enum wire_limit {
	WIRE_REFUSED = 9,
	WIRE_PORT = 0x4000, /* by which bit ports differ behind the wire */
};

/* Index: 1 for IPv6. */
BPF_TABLE("array", __u32, struct rewrite_wire, rewrite_wires, 2);
BPF_TABLE("percpu_array", __u32, struct rewrite_views, rewrite_scratch, 1);

static __always_inline bool wire_same(const __be32 *one, const __be32 *other)
{
	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && one[3] == other[3];
}

/* Give what has the address FROM the address TO. */
static __always_inline void wire_end(const __be32 *from, const __be32 *to, __be32 *address, __be16 *port)
{
	if (!wire_same(address, from))
		return;
	__builtin_memcpy(address, to, 16);
	*port ^= bpf_htons(WIRE_PORT);
}

/* Make TUPLE what it is on the other side. */
static __always_inline void wire_cross(const struct rewrite_wire *wire, struct nat_tuple *tuple)
{
	wire_end(wire->inside, wire->outside, tuple->saddr, &tuple->sport);
	wire_end(wire->outside, wire->inside, tuple->daddr, &tuple->dport);
}

/* The same for a packet that went the other way. */
static __always_inline void wire_cross_back(const struct rewrite_wire *wire, struct nat_tuple *tuple)
{
	wire_end(wire->outside, wire->inside, tuple->saddr, &tuple->sport);
	wire_end(wire->inside, wire->outside, tuple->daddr, &tuple->dport);
}

static __always_inline bool wire_refuse(hook_ctx *ctx, const struct tuple_view *view)
{
	if (view->protocol == IP_TCP)
		return answer_reset(ctx, view, true);
	return answer_unreachable(ctx, view, view->version == 6 ? 1 : 3, view->version == 6 ? 4 : 3, 0, 0);
}

static __always_inline bool wire_error(hook_ctx *ctx, const struct rewrite_wire *wire, const struct tuple_view *view,
				       struct tuple_view *quoted)
{
	if (!tuple_read_quoted(ctx, view, quoted))
		return false;
	struct nat_tuple outer = view->tuple, to = quoted->tuple;
	wire_cross(wire, &outer);
	wire_cross_back(wire, &to);
	return rewrite_error(ctx, view, quoted, &outer, &to, false);
}

int rewrite_wire(hook_ctx *ctx)
{
	struct packet packet = {};
	if (!parse_packet(ctx, &packet))
		return hook_drop();
	__u32 number = packet.ethertype == bpf_htons(ETH_P_IPV6), zero = 0;
	struct rewrite_wire *wire = rewrite_wires.lookup(&number);
	struct rewrite_views *views = rewrite_scratch.lookup(&zero);
	struct nat_tuple to;
	if (!wire || !views)
		return hook_drop();
	struct tuple_view *view = &views->view;
	__u32 egress = wire->there;
	if (!tuple_read(ctx, &packet, view))
		return hook_redirect(ctx, egress, false);
	if (view->kind == TUPLE_FLOW && view->tuple.dport == bpf_htons(WIRE_REFUSED)) {
		egress = wire->here;
		return wire_refuse(ctx, view) ? hook_redirect(ctx, egress, false) : hook_drop();
	}
	to = view->tuple;
	wire_cross(wire, &to);
	if (view->kind == TUPLE_LATER || tuple_is_icmp(view)) {
		to.sport = view->tuple.sport;
		to.dport = view->tuple.dport;
	}
	bool done = view->kind == TUPLE_ERROR ? wire_error(ctx, wire, view, &views->quoted) :
						rewrite(ctx, view, &to, false);
	return done ? hook_redirect(ctx, egress, false) : hook_drop();
}
