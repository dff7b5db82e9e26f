// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Hints: what is read ahead of its time. pydp/services/records.py writes them by the same hash.

/* The place in nat_hints of the frontend with this address, and the rest of its name: port, protocol, and version. */
static __always_inline __u32 nat_hint_place(const __be32 *address, __be16 port, __u8 protocol, __u8 version)
{
	__u64 words[2], end = port | (__u32)protocol << 16 | (__u32)version << 24;
	__builtin_memcpy(words, address, sizeof(words));
	__u64 hash = words[0] * 0x9e3779b97f4a7c15ULL + words[1] * 0xbf58476d1ce4e5b9ULL + end * 0x94d049bb133111ebULL;
	return (hash ^ hash >> 32) * 0x9e3779b97f4a7c15ULL >> PYDP_NAT_HINT_SHIFT;
}

/* Which of so many slots a flow gets. */
static __always_inline __u32 nat_slot_of(__u64 hash, __u32 count)
{
	return (hash * 0xd6e8feb86659fd93ULL >> 32) * count >> 32;
}

/* Have a record come from memory while something else is done. */
static __always_inline void nat_fetch(const __u64 *word)
{
	if (word)
		asm volatile("" ::"r"(*(const volatile __u64 *)word));
}

/* This CPU's counter of a backend. */
static __always_inline struct nat_count *nat_count_of(__u32 number)
{
	__u32 place = number * (__u32)STAGE_CONSTANT(STAGE_NAT, CONSTANT_CPUS) + bpf_get_smp_processor_id();
	return nat_counts.lookup(&place);
}

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
