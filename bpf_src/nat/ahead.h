// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Reading ahead: memory that a flow's first packet asks for, as far as it can be guessed.

/* Is a packet likely to begin a flow? One that opens a connection is, and of what has no such sign one that comes behind another that did. */
static __always_inline bool nat_expects(const struct nat_scratch *s)
{
	return s->view.protocol == IP_TCP ? s->view.tcp_flags & TCP_SYN : s->began;
}

/* Have what a packet asks for that begins a flow come from memory all at once: the counter of the backend that most likely answers, and the buckets
 * of the packet's tuple and of the answers'. Nobody has those lines at hand, and each would only be asked for when the one before has come.
 * They are read side by side, since a CPU looks but a few hundred instructions ahead of what it waits for. */
static __always_inline void nat_fetch_ahead(struct nat_scratch *s, __u64 seed)
{
	const struct tuple_view *view = &s->view;
	const struct nat_tuple *tuple = &view->tuple;
	__u32 place = nat_hint_place(tuple->daddr, tuple->dport, view->protocol, view->version);
	__u32 *hint = nat_hints.lookup(&place);
	if (!hint || !*hint)
		return;
	__u32 number = (*hint & ((1 << NAT_HINT_BITS) - 1)) + nat_slot_of(s->hash, *hint >> NAT_HINT_BITS);
	struct nat_backend *backend = nat_backends.lookup(&number);
	if (!backend)
		return;
	nat_inverse(&s->reply, tuple);
	s->reply.sport = backend->port;
	__builtin_memcpy(s->reply.saddr, backend->address, 16);
	__u64 reply = nat_hash(&s->reply, view->protocol, view->version, seed);
	const __u64 *count = (void *)nat_count_of(number), *one = (void *)nat_bucket(s->hash),
		    *other = (void *)nat_bucket(s->hash >> 32), *back = (void *)nat_bucket(reply),
		    *other_back = (void *)nat_bucket(reply >> 32);
	if (!count || !one || !other || !back || !other_back)
		return;
	asm volatile("" ::"r"(*(const volatile __u64 *)count), "r"(*(const volatile __u64 *)one),
		     "r"(*(const volatile __u64 *)other), "r"(*(const volatile __u64 *)back),
		     "r"(*(const volatile __u64 *)other_back));
}
