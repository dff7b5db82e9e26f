// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// How long a flow lives: what its packets tell, in the states and with the timeouts of nf_conntrack.
//
// Sequence numbers are not followed: an RST ends a connection for the table (10 s), and data that goes on brings it back to life.

enum tcp_flag {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,
};

enum nat_state_limit {
	NAT_UNANSWERED = 17881, /* ticks (16.8 ms): 300 seconds, nf_conntrack_tcp_timeout_unacknowledged */
	NAT_UDP_SHIFT =
		4, /* ticks to instants of 268 ms: the 128 that a state has room for are longer than such a flow lives */
	NAT_UDP_STREAM = 8, /* instants after which it is a stream if it was answered: two seconds */
};

enum sctp_chunk {
	SCTP_INIT = 1,
	SCTP_ABORT = 6,
	SCTP_SHUTDOWN = 7,
	SCTP_COOKIE_ACK = 11,
	SCTP_SHUTDOWN_COMPLETE = 14,
};

/* Could a packet with these flags begin a connection, or belong to one that nobody remembers? As nf_conntrack_tcp with loose pick-up. */
static __always_inline bool nat_tcp_begins(__u8 flags)
{
	if (flags & (TCP_RST | TCP_FIN))
		return false;
	return flags & TCP_SYN ? !(flags & TCP_ACK) : !!(flags & TCP_ACK);
}

/* Does a packet on its WAY begin a connection anew that both sides have ended? It is another one then, which may get another backend. */
static __always_inline bool nat_tcp_reopens(const struct nat_flow *flow, const struct tuple_view *view, __u32 way)
{
	return view->protocol == IP_TCP && (view->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN &&
	       !way && flow->state >= NAT_STATE_LAST_ACK;
}

/* The state of a connection after a segment on its WAY. Notes who has ended in FLOW's flags. */
static __always_inline __u8 nat_tcp_next(struct nat_flow *flow, __u8 flags, __u32 way)
{
	__u8 state = flow->state;
	if (flags & TCP_RST)
		return state == NAT_STATE_TIME_WAIT ? state : NAT_STATE_CLOSE;
	if (flags & TCP_SYN) {
		if (!(flags & TCP_ACK) && state == NAT_STATE_NONE)
			return NAT_STATE_SYN_SENT;
		return flags & TCP_ACK && way && state == NAT_STATE_SYN_SENT ? NAT_STATE_SYN_RECV : state;
	}
	if (flags & TCP_FIN) {
		flow->flags |= way ? NAT_FLOW_FIN_REPLY : NAT_FLOW_FIN_ORIGINAL;
		__u8 both = NAT_FLOW_FIN_ORIGINAL | NAT_FLOW_FIN_REPLY;
		return (flow->flags & both) == both ? NAT_STATE_LAST_ACK : NAT_STATE_FIN_WAIT;
	}
	if (!(flags & TCP_ACK))
		return state;
	switch (state) {
	case NAT_STATE_NONE:
	case NAT_STATE_CLOSE:
		return NAT_STATE_ESTABLISHED;
	case NAT_STATE_SYN_SENT: /* the responder is heard of by its initiator only */
		return flow->flags & NAT_FLOW_DSR ? NAT_STATE_ESTABLISHED : state;
	case NAT_STATE_SYN_RECV:
		return way ? state : NAT_STATE_ESTABLISHED;
	case NAT_STATE_FIN_WAIT:
		return flow->flags & (way ? NAT_FLOW_FIN_ORIGINAL : NAT_FLOW_FIN_REPLY) ? NAT_STATE_CLOSE_WAIT : state;
	case NAT_STATE_LAST_ACK:
		return NAT_STATE_TIME_WAIT;
	}
	return state;
}

static __always_inline __u32 nat_tcp_timeout(__u8 state)
{
	switch (state) {
	case NAT_STATE_SYN_SENT:
		return PYDP_NAT_TIMEOUT_TCP_SYN_SENT;
	case NAT_STATE_SYN_RECV:
		return PYDP_NAT_TIMEOUT_TCP_SYN_RECV;
	case NAT_STATE_FIN_WAIT:
		return PYDP_NAT_TIMEOUT_TCP_FIN_WAIT;
	case NAT_STATE_CLOSE_WAIT:
		return PYDP_NAT_TIMEOUT_TCP_CLOSE_WAIT;
	case NAT_STATE_LAST_ACK:
		return PYDP_NAT_TIMEOUT_TCP_LAST_ACK;
	case NAT_STATE_TIME_WAIT:
		return PYDP_NAT_TIMEOUT_TCP_TIME_WAIT;
	case NAT_STATE_CLOSE:
		return PYDP_NAT_TIMEOUT_TCP_CLOSE;
	}
	return PYDP_NAT_TIMEOUT_TCP_ESTABLISHED;
}

/* SCTP, coarsely: begun, agreed upon, over. */
static __always_inline __u8 nat_sctp_next(struct nat_flow *flow, __u8 chunk)
{
	switch (chunk) {
	case SCTP_INIT:
		return flow->state == NAT_STATE_ESTABLISHED ? flow->state : NAT_STATE_SYN_SENT;
	case SCTP_ABORT:
	case SCTP_SHUTDOWN:
	case SCTP_SHUTDOWN_COMPLETE:
		return NAT_STATE_CLOSE;
	case SCTP_COOKIE_ACK:
		return NAT_STATE_ESTABLISHED;
	}
	return flow->state ? flow->state : NAT_STATE_ESTABLISHED;
}

static __always_inline __u32 nat_sctp_timeout(__u8 state)
{
	return state == NAT_STATE_ESTABLISHED ? PYDP_NAT_TIMEOUT_SCTP_ESTABLISHED :
	       state == NAT_STATE_CLOSE	      ? PYDP_NAT_TIMEOUT_SCTP_CLOSED :
						PYDP_NAT_TIMEOUT_SCTP_INIT;
}

/* Where a flow of UDP stands at NOW. What answers within two seconds of the first question may be no more than that (nf_conntrack_proto_udp.c), so it
 * is noted when the flow began, and that this is past. */
static __always_inline __u8 nat_udp_next(__u8 state, __u32 now)
{
	__u8 instant = NAT_UDP_YOUNG | now >> NAT_UDP_SHIFT, age = (instant - state) & (NAT_UDP_YOUNG - 1);
	if (!state)
		return instant;
	return age < NAT_UDP_STREAM ? state : NAT_UDP_OLD;
}

/* Ticks for which a flow without states lives on; a STREAM was answered and is old. */
static __always_inline __u32 nat_plain_timeout(__u8 protocol, bool stream)
{
	switch (protocol) {
	case IP_UDP:
		return stream ? PYDP_NAT_TIMEOUT_UDP_STREAM : PYDP_NAT_TIMEOUT_UDP;
	case IP_ICMP:
		return PYDP_NAT_TIMEOUT_ICMP;
	case IP_ICMPV6:
		return PYDP_NAT_TIMEOUT_ICMPV6;
	}
	return PYDP_NAT_TIMEOUT_GENERIC;
}

/* What a flow's life is to be after a packet on its WAY. Most packets change nothing but the time, and that once a tick. The first reply counts
 * as one for the packets behind it, and who is assured once remains so, as with nf_conntrack. */
static __always_inline __u64 nat_life_after(struct nat_flow *flow, const struct tuple_view *view, __u32 way, __u32 now)
{
	__u8 state = flow->state, before = state, flags = flow->flags;
	/* Of one who answers by himself it is enough that the initiator goes on. */
	bool answered = way || (flags & NAT_FLOW_DSR && state == NAT_STATE_ESTABLISHED);
	__u32 replied = flags & NAT_FLOW_REPLIED, assured, closing = 0, timeout;
	if (answered && !replied)
		flow->flags = flags | NAT_FLOW_REPLIED;
	if (view->protocol == IP_TCP) {
		if (state != NAT_STATE_ESTABLISHED || view->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))
			state = nat_tcp_next(flow, view->tcp_flags, way);
		timeout = nat_tcp_timeout(state);
		if (state == NAT_STATE_ESTABLISHED && !replied && timeout > NAT_UNANSWERED)
			timeout = NAT_UNANSWERED;
		/* Agreed upon before (SYN_RECV, ESTABLISHED), and still so. */
		assured = nat_if_none((state ^ NAT_STATE_ESTABLISHED) | (before >> 1 ^ 1));
		closing = nat_if_none(state >> 2) + 1;
	} else if (view->protocol == IP_SCTP) {
		state = nat_sctp_next(flow, view->chunk);
		timeout = nat_sctp_timeout(state);
		assured = nat_if_none(state ^ NAT_STATE_ESTABLISHED);
		closing = nat_if_none(state ^ NAT_STATE_CLOSE);
	} else {
		if (view->protocol == IP_UDP)
			state = nat_udp_next(state, now);
		assured = nat_if_none(state ^ NAT_UDP_OLD);
		timeout = nat_plain_timeout(view->protocol, assured & replied);
	}
	if (state != before)
		flow->state = state;
	assured = (assured & replied) | (nat_class(flow->life) + 1) >> 2; /* it was before: above NAT_CLASS_NEW */
	__u32 kind = NAT_CLASS_NEW + assured + (assured & closing);
	return (__u64)kind << 32 | (__u32)(now + timeout);
}

/* Keep a flow alive. */
static __always_inline void nat_heard(struct nat_flow *flow, const struct tuple_view *view, __u32 way, __u32 now)
{
	__u64 before = flow->life, after = nat_life_after(flow, view, way, now);
	/* Who comes too late finds it taken for another flow, or heard by another CPU. */
	if (before != after && nat_class(before) >= NAT_CLASS_NEW)
		__sync_val_compare_and_swap(&flow->life, before, after);
}
