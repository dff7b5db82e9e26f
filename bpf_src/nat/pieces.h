// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Packets in fragments: the first has the ports, and the others follow it. One that comes before the first is left to the stack.

enum nat_pieces_limit {
	NAT_PIECE_KEPT = 1788, /* ticks (16.8 ms): 30 seconds, net.ipv4.ipfrag_time */
};

static __always_inline void nat_piece_key(struct nat_scratch *s)
{
	struct nat_piece *piece = &s->piece;
	__builtin_memcpy(piece->saddr, s->view.tuple.saddr, 16);
	__builtin_memcpy(piece->daddr, s->view.tuple.daddr, 16);
	piece->id = s->view.id;
	piece->protocol = s->view.protocol;
	piece->version = s->view.version;
	piece->egress = PYDP_EGRESS;
	piece->pad = 0;
}

/* Note which flow a first fragment belongs to. */
static __always_inline void nat_piece_note(struct nat_scratch *s, __u32 now, const struct nat_found *found)
{
	struct nat_whole whole = { .flow = found->number, .way = found->way, .seen = now };
	nat_piece_key(s);
	nat_pieces.update(&s->piece, &whole);
}

/* The flow of a later fragment. */
static __always_inline bool nat_piece_find(struct nat_scratch *s, __u32 now, struct nat_found *found)
{
	nat_piece_key(s);
	struct nat_whole *whole = nat_pieces.lookup(&s->piece);
	if (!whole || (__s32)(now - whole->seen) > NAT_PIECE_KEPT)
		return false;
	struct nat_flow *flow = nat_flow(whole->flow);
	if (!flow || !nat_lives(flow->life, now) || flow->protocol != s->view.protocol)
		return false;
	/* The record may have gone to another flow since. */
	const struct nat_tuple *tuple = whole->way ? &flow->reply : &flow->original;
	if (!nat_same_address(tuple->saddr, s->view.tuple.saddr) ||
	    !nat_same_address(tuple->daddr, s->view.tuple.daddr))
		return false;
	found->flow = flow;
	found->number = whole->flow;
	found->way = whole->way & 1;
	return true;
}
