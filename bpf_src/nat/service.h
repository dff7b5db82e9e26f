// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Services: what a client's destination stands for, and who of its backends answers.

static __always_inline bool nat_is_local(struct nat_name *name, const __be32 *address, __u8 version)
{
	__builtin_memcpy(name->address, address, 16);
	name->port = 0;
	name->protocol = 0;
	name->version = version;
	return nat_locals.lookup(name);
}

/* The frontend that a packet is addressed to; 0 for none. */
static __always_inline struct nat_frontend *nat_frontend(struct nat_scratch *s)
{
	const struct tuple_view *view = &s->view;
	const struct nat_tuple *tuple = &view->tuple;
	struct nat_name *name = &s->name;
	if (view->protocol != IP_TCP && view->protocol != IP_UDP && view->protocol != IP_SCTP)
		return 0;
	__builtin_memcpy(name->address, tuple->daddr, 16);
	name->port = tuple->dport;
	name->protocol = view->protocol;
	name->version = view->version;
	struct nat_frontend *found = nat_frontends.lookup(name);
	if (found)
		return found;
	__u32 port = bpf_ntohs(tuple->dport);
	__u32 *wild = nat_wild.lookup(&port);
	if (!wild || !*wild || !nat_is_local(name, tuple->daddr, view->version))
		return 0;
	__builtin_memset(name->address, 0, 16);
	name->port = tuple->dport;
	name->protocol = view->protocol;
	return nat_frontends.lookup(name);
}

/* The frontend for clients on this host, if the one that was FOUND just now is not for them. */
static __always_inline struct nat_frontend *nat_frontend_of_host(struct nat_scratch *s, struct nat_frontend *found)
{
	if (!found || !(found->flags & NAT_FRONTEND_HOST))
		return found;
	s->name.version |= NAT_NAME_HOST;
	return nat_frontends.lookup(&s->name);
}

/* May connections to BACKEND begin? */
static __always_inline bool nat_backend_takes(const struct nat_backend *backend)
{
	return (backend->flags & (NAT_BACKEND_PRESENT | NAT_BACKEND_DRAINING)) == NAT_BACKEND_PRESENT;
}

/* Has BACKEND, which a flow with that GENERATION is for, nothing more to do with it? */
static __always_inline bool nat_backend_left(const struct nat_backend *backend, __u32 generation, __u8 protocol,
					     __u32 now)
{
	if (backend->generation != generation || !(backend->flags & NAT_BACKEND_PRESENT))
		return true;
	if (!(backend->flags & NAT_BACKEND_DRAINING))
		return false;
	return protocol == IP_UDP || (backend->deadline && (__s32)(backend->deadline - now) < 0);
}

/* The backend that a client was with before; its number plus one, or 0. */
static __always_inline __u32 nat_remembered(struct nat_scratch *s, const struct nat_frontend *frontend, __u32 now)
{
	__builtin_memcpy(s->client.address, s->view.tuple.saddr, 16);
	s->client.service = frontend->service;
	struct nat_chosen *chosen = nat_clients.lookup(&s->client);
	if (!chosen || (__s32)(now - chosen->seen) > (__s32)frontend->affinity || !chosen->backend)
		return 0;
	__u32 number = chosen->backend - 1;
	struct nat_backend *backend = nat_backends.lookup(&number);
	if (!backend || backend->generation != chosen->generation || !nat_backend_takes(backend))
		return 0;
	chosen->seen = now;
	return chosen->backend;
}

/* Choose who answers a new flow: the number of a backend plus one, or 0. */
static __always_inline __u32 nat_choose(struct nat_scratch *s, const struct nat_frontend *frontend, __u32 now)
{
	__u64 hash = s->hash;
	if (!frontend->count)
		return 0;
	if (frontend->flags & NAT_FRONTEND_AFFINITY) {
		__u32 before = nat_remembered(s, frontend, now);
		if (before)
			return before;
	}
	if (frontend->flags & NAT_FRONTEND_CONSISTENT) /* without the secret seed, which every machine has its own of */
		hash = nat_hash(&s->view.tuple, s->view.protocol, s->view.version, 0);
	__u32 slot = nat_slot_of(hash, frontend->count), number = frontend->row - 1 + slot;
	if (!frontend->row) {
		slot += frontend->first;
		__u32 *there = nat_slots.lookup(&slot);
		if (!there)
			return 0;
		number = *there;
	}
	struct nat_backend *backend = nat_backends.lookup(&number);
	nat_fetch((void *)nat_count_of(number)); /* it is going to be counted */
	if (!backend || !nat_backend_takes(backend))
		return 0;
	if (frontend->flags & NAT_FRONTEND_AFFINITY) {
		struct nat_chosen chosen = { .backend = number + 1, .generation = backend->generation, .seen = now };
		nat_clients.update(&s->client, &chosen);
	}
	return number + 1;
}

static __always_inline void nat_count_failure(__u32 service, __u32 failure)
{
	struct nat_failed *failed = nat_failures.lookup(&service);
	if (failed)
		failed->count[failure & 3]++;
}

/* Count a packet of LENGTH bytes for its backend; one that begins a flow counts that as well. */
static __always_inline void nat_count_backend(const struct nat_flow *flow, __u32 way, __u32 length, bool begins)
{
	__u32 number = flow->backend - 1;
	struct nat_count *count = flow->backend ? nat_count_of(number) : 0;
	if (!count)
		return;
	if (count->owner != flow->generation) {
		__builtin_memset(count, 0, sizeof(*count));
		count->owner = flow->generation;
	}
	/* Without branches: the verifier comes here by each way that a packet was rewritten. */
	__u32 back = way & 1, forth = back ^ 1;
	asm volatile("" : "+r"(back), "+r"(forth));
	count->flows += begins;
	count->sent_packets += forth;
	count->sent_bytes += length & -forth;
	count->received_packets += back;
	count->received_bytes += length & -back;
}
