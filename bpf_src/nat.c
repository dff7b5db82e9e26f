// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Stage nat: services, port forwarding, masquerade, as netfilter's nat table has them, with a conntrack table of its own.
//
// What comes in by a port of the instance is translated whole, and sent on by the kernel's routes past the stack. What is for a socket of this
// host is translated and handed up. The program on the way out sees what the stack sends: this host as a client of a service, or
// as one of its backends, and what came in by devices without a program. On XDP programs do what can be sent out at once, first packets of
// flows included, and leave all else as it is to the tc program of the same port (PUNT_NAT).

#include "lib/clock.h"
#include "lib/hop.h"
#include "lib/lines.h"
#include "lib/outer_header.h"
#include "lib/plain.h"
#include "lib/tuple.h"
#include "lib/rewrite.h"
#include "lib/answer.h"

#include "nat/maps.h"
#include "nat/scratch.h"
#include "nat/flows.h"
#include "nat/claim.h"
#include "nat/state.h"
#include "nat/way.h"
#include "nat/hint.h"
#include "nat/ahead.h"
#include "nat/service.h"
#include "nat/source.h"
#include "nat/deliver.h"
#include "nat/dsr.h"
#include "nat/begin.h"
#include "nat/pieces.h"
#include "nat/short.h"
#include "nat/control.h"

/* Tell the sender of a packet why it does not get through. The answer goes back to where the packet came from. */
static __always_inline enum verdict nat_answer(hook_ctx *ctx, struct packet *packet, struct nat_scratch *s,
					       const struct nat_place *at)
{
	const bool ipv6 = s->view.version == 6, here = PYDP_EGRESS && !at->came_by;
	__u32 mtu = s->task.mtu;
	__be32 address[4];
	struct nat_device *device = nat_device(at->port->device);
	bool own = !here && device && nat_device_address(device, s->view.version, address);
	__u8 type = ipv6 ? (mtu ? 2 : 1) : 3, code = ipv6 ? (mtu ? 0 : 4) : (mtu ? 4 : 3);
	bool made = s->reset ? answer_reset(ctx, &s->view, true) :
			       answer_unreachable(ctx, &s->view, type, code, mtu, own ? address : 0);
	if (!made)
		return mtu ? PUNT_TOO_BIG : DROP_ENDED;
	packet->egress = at->port->ifindex;
	if (here && !nat_turn_back(ctx, packet, at->port->device)) /* a program of this host is told */
		return PUNT_ERROR;
	return mtu ? FORWARD_REPLY : FORWARD_REJECT;
}

/* Does the flow that was found go on? Gives PASS_UNCLAIMED if it does, and also if it is over: then without FOUND's flow, and its record is
 * the plan's. One whose backend has gone is over, or reset. */
static __always_inline enum verdict nat_check(struct nat_scratch *s, const struct nat_place *at,
					      struct nat_found *found, const enum nat_kind kind)
{
	struct nat_flow *flow = found->flow;
	__u64 life = flow->life;
	if (nat_class(life) == NAT_CLASS_BUSY)
		return DROP_RACE;
	s->plan.life = life;
	if (!nat_lives(life, at->now) || nat_tcp_reopens(flow, &s->view, found->way)) {
		s->plan.stale = found->number + 1;
		found->flow = 0;
		return PASS_UNCLAIMED;
	}
	__u32 number = flow->backend - 1;
	struct nat_backend *backend = flow->backend ? nat_backends.lookup(&number) : 0;
	if (!backend || kind == NAT_ERROR || !nat_backend_left(backend, flow->generation, flow->protocol, at->now))
		return PASS_UNCLAIMED;
	/* What the backend still had to say is let through, and what the client answers to that is reset, or ends the backend's side. */
	if (found->way || (flow->protocol == IP_TCP && s->view.tcp_flags & TCP_RST))
		return PASS_UNCLAIMED;
	bool opens = (s->view.tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	if (backend->generation == flow->generation && flow->protocol == IP_TCP && !opens &&
	    backend->flags & NAT_BACKEND_RESET) {
		if (HOOK_OPENS_IP) { /* XDP leaves it to tc */
			nat_count_event(NAT_EVENT_RESET);
			nat_count_failure(backend->service, NAT_FAILURE_ENDED);
		}
		return FORWARD_REJECT;
	}
	s->plan.moved = 1;
	s->plan.stale = found->number + 1;
	found->flow = 0;
	return PASS_UNCLAIMED;
}

/* Find the flow of a packet. Gives PASS_UNCLAIMED with FOUND's flow, or without if it has none: then one may begin. */
static __always_inline enum verdict nat_flow_of(struct nat_scratch *s, const struct nat_place *at,
						struct nat_found *found, const enum nat_kind kind)
{
	const bool error = kind == NAT_ERROR;
	__u8 protocol = error ? s->quoted.protocol : s->view.protocol;
	const struct nat_tuple *key = &s->view.tuple;
	if (error) {
		nat_inverse(&s->key, &s->quoted.tuple);
		key = &s->key;
	}
	__u64 hash = nat_hash(key, protocol, s->view.version, at->seed);
	s->hash = hash;
	s->plan.stale = s->plan.moved = 0;
	if (!error && nat_expects(s))
		nat_fetch_ahead(s, at->seed);
	bool theirs = !error || nat_same_address(key->daddr, s->view.tuple.daddr); /* as nf_conntrack_inet_error() */
	if (theirs && nat_find(key, protocol, s->view.version, hash, found))
		return nat_check(s, at, found, kind);
	found->flow = 0;
	return PASS_UNCLAIMED;
}

/* What the packet is to leave as, from the flow's other tuple. */
static __always_inline void nat_target(struct nat_scratch *s, const struct nat_found *found, const enum nat_kind kind)
{
	struct nat_flow *flow = found->flow;
	const struct nat_tuple *other = found->way ? &flow->original : &flow->reply;
	nat_inverse(&s->to, other);
	/* What is the source on one way is the destination on the other. */
	__u32 flags = flow->flags, changes = flags >> 1 & (NAT_TASK_SOURCE | NAT_TASK_DESTINATION);
	bool source = flags & (found->way ? NAT_FLOW_DESTINATION : NAT_FLOW_SOURCE);
	if (found->way)
		changes = changes >> 1 | (changes << 1 & NAT_TASK_DESTINATION) | (flags & NAT_FLOW_HOST) >> 1;
	s->task.flags = changes;
	if (kind != NAT_ERROR)
		return;
	/* Who sends an error is hidden like the flow's end that it stands before (nf_nat_icmp_reply_translation); who gets it is that end. */
	nat_inverse(&s->quoted_to, &s->to);
	if (!source)
		__builtin_memcpy(s->to.saddr, s->view.tuple.saddr, 16);
}

static __always_inline void nat_account(struct nat_flow *flow, __u32 way, __u32 length)
{
	if (!PYDP_NAT_ACCOUNTING)
		return;
	flow->packets[way & 1]++;
	flow->bytes[way & 1] += length;
}

/* A packet whose flow is known. */
static __always_inline enum verdict nat_go_on(hook_ctx *ctx, struct packet *packet, struct nat_scratch *s,
					      const struct nat_place *at, const struct nat_found *found,
					      const enum nat_kind kind, const bool begun)
{
	if (kind != NAT_ERROR && s->view.kind == TUPLE_FLOW && !begun)
		nat_heard(found->flow, &s->view, found->way, at->now);
	if (kind != NAT_ERROR && s->view.first)
		nat_piece_note(s, at->now, found);
	enum verdict verdict;
	if (kind != NAT_ERROR && found->flow->flags & NAT_FLOW_DSR && !found->way) {
		verdict = nat_dsr(ctx, packet, s, at, found->flow);
	} else {
		nat_target(s, found, kind);
		verdict = nat_deliver(ctx, packet, s, at, found->flow, kind, begun && !HOOK_OPENS_IP);
	}
	if (verdict == FORWARD_NAT || verdict == PASS_NAT || verdict == FORWARD_ENCAP) {
		nat_account(found->flow, found->way, packet->length);
		nat_count_backend(found->flow, found->way, packet->length, begun);
	}
	return verdict;
}

/* Look at where the packet is. */
static __always_inline bool nat_see(hook_ctx *ctx, __u32 slot, struct nat_place *at)
{
	at->seed = STAGE_CONSTANT(STAGE_NAT, CONSTANT_SEED);
	at->port = nat_ports.lookup(&slot);
	at->came_by = PYDP_EGRESS ? hook_came_by(ctx) : 0;
	at->now = nat_now();
	return at->port;
}

/* Look at where the packet is, and read it. False if it is none that could be translated. */
static __always_inline bool nat_read(hook_ctx *ctx, const struct packet *packet, __u32 slot, struct nat_scratch *s,
				     struct nat_place *at)
{
	if (!nat_see(ctx, slot, at) || packet->tags)
		return false;
	if (!PYDP_EGRESS && packet->dest != at->port->mac && packet->dest != at->port->other)
		return false; /* for another station, or for several */
	return tuple_read(ctx, packet, &s->view);
}

/* The packets of flows that are known, which are most. What else may be for us is handed to the stages below, in programs of their own: there is
 * much to be done, and here the verifier would follow all that. On XDP there is one for what may begin a flow. */
static __always_inline enum verdict nat_stage(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	__u32 zero = 0;
	struct nat_found found = {};
	struct nat_place at = {};
	enum verdict verdict = PASS_UNCLAIMED;
	struct nat_scratch *s = nat_scratches.lookup(&zero);
	if ((PYDP_EGRESS && hook_is_done(ctx)) || !s || !nat_read(ctx, packet, slot, s, &at))
		return PASS_UNCLAIMED;
	enum nat_kind next = NAT_ERROR;
	s->reset = s->task.mtu = 0;
	if (s->view.kind == TUPLE_LATER) {
		if (!nat_piece_find(s, at.now, &found))
			return PASS_UNCLAIMED;
	} else if (s->view.kind == TUPLE_FLOW) {
		next = NAT_BEGIN;
		verdict = nat_flow_of(s, &at, &found, NAT_PLAIN);
		s->began = !found.flow;
		if (verdict == PASS_UNCLAIMED && !found.flow && !nat_concerns(s, &at))
			return PASS_UNCLAIMED;
	}
	if (found.flow && verdict == PASS_UNCLAIMED) {
		verdict = nat_go_on(ctx, packet, s, &at, &found, NAT_PLAIN, false);
		if (!HOOK_OPENS_IP && verdict == FORWARD_NAT)
			nat_keep(s, packet, &found, slot);
		if (!s->task.mtu)
			return verdict;
	}
	if (!HOOK_OPENS_IP && (found.flow || next != NAT_BEGIN || verdict != PASS_UNCLAIMED))
		return PUNT_NAT;
	if (verdict == DROP_RACE)
		return verdict;
	s->reset = verdict == FORWARD_REJECT;
	s->run = s->look = 0;
	/* By numbers that are written in the code, with which the kernel makes the call a jump. */
	if (s->reset || s->task.mtu)
		nat_tails.call(ctx, NAT_ANSWER);
	else if (next == NAT_BEGIN)
		nat_tails.call(ctx, NAT_BEGIN);
	else
		nat_tails.call(ctx, NAT_ERROR);
	return PUNT_ERROR;
}

/* Packets that may begin a flow, read by the program before. Once it is noted, they are like any others of it. */
static __always_inline enum verdict nat_stage_begin(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	__u32 zero = 0;
	struct nat_place at = {};
	struct nat_scratch *s = nat_scratches.lookup(&zero);
	if (!s || !nat_see(ctx, slot, &at))
		return PUNT_ERROR;
	enum verdict verdict = nat_begin(ctx, s, &at);
	if (verdict == PASS_UNCLAIMED && s->plan.noted) {
		/* Found and looked at anew, so that the verifier does not follow each of the ways that it was noted by. */
		asm volatile("" ::: "memory");
		struct nat_found found = { .number = s->plan.noted - 1 };
		found.flow = nat_flow(found.number);
		if (!found.flow || !nat_see(ctx, slot, &at))
			return PUNT_ERROR;
		verdict = nat_go_on(ctx, packet, s, &at, &found, NAT_PLAIN, true);
	}
	if (HOOK_OPENS_IP && (verdict == FORWARD_REJECT || s->task.mtu))
		nat_tails.call(ctx, NAT_ANSWER);
	return verdict;
}

static __always_inline enum verdict nat_stage_error(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	__u32 zero = 0;
	struct nat_found found = {};
	struct nat_place at = {};
	struct nat_scratch *s = nat_scratches.lookup(&zero);
	if (!s || !nat_read(ctx, packet, slot, s, &at) || s->view.kind != TUPLE_ERROR)
		return PASS_UNCLAIMED;
	if (!tuple_read_quoted(ctx, &s->view, &s->quoted))
		return tuple_message_right(ctx, &s->view) ? PASS_UNCLAIMED : DROP_CHECKSUM;
	enum verdict verdict = nat_flow_of(s, &at, &found, NAT_ERROR);
	return verdict == PASS_UNCLAIMED && found.flow ? nat_go_on(ctx, packet, s, &at, &found, NAT_ERROR, false) :
							 verdict;
}

/* What the stages before said in the task's `mtu` and in `reset` is told to the sender. */
static __always_inline enum verdict nat_stage_answer(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	__u32 zero = 0;
	struct nat_place at = {};
	struct nat_scratch *s = nat_scratches.lookup(&zero);
	return s && nat_read(ctx, packet, slot, s, &at) ? nat_answer(ctx, packet, s, &at) : PUNT_ERROR;
}
