// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Type l3: what a child sends is sent by this host, out of the parent, as if it were the host's own (ipvlan_process_outbound): its routes
// of that device and its neighbours count, and the TTL stays.

static __always_inline __u32 ipvlan_now(void)
{
	__u32 zero = 0;
	return clock_now(ipvlan_clock.lookup(&zero));
}

/* The way from the child at SLOT, brought up to date (see lib/hop.h); 0 if the kernel is to send this packet. Rules may tell senders apart, so
 * each has ways of its own. */
static __always_inline struct ipvlan_way *ipvlan_way(hook_ctx *ctx, const struct ipvlan_view *view, __u32 slot,
						     __u32 parent)
{
	const bool ipv6 = view->kind == IPVLAN_IPV6;
	__u32 now = ipvlan_now(), place = table_hash(table_key(view->daddr, slot, true)) & (IPVLAN_WAYS - 1);
	struct ipvlan_way *way = ipvlan_ways.lookup(&place);
	if (!way)
		return 0;
	if (!way->hop.checked || way->slot != slot || !ipvlan_same(way->address, view->daddr)) {
		__builtin_memcpy(way->address, view->daddr, 16);
		way->slot = slot;
		way->hop.ready = 0;
		way->hop.shown = now;
	}
	enum hop_answer answer = ipv6 ? hop_find(ctx, &way->hop, view->daddr, view->saddr, parent, true, 0, now, true) :
					hop_find(ctx, &way->hop, view->daddr, view->saddr, parent, false, 0, now, true);
	return answer == HOP_READY && way->hop.ifindex == parent ? way : 0;
}

/* Send a packet of the child at SLOT to its next hop. On tc the kernel finds that (bpf_redirect_neigh(), which is made after
 * ipvlan_process_outbound()), and waits for neighbours. XDP has no such helper: it asks for the next hop, and leaves to the tc program beside
 * it what it gets no answer for, as where the parent does not forward. */
static __always_inline enum verdict ipvlan_route(hook_ctx *ctx, struct packet *packet, const struct ipvlan_view *view,
						 __u32 slot, const struct child_port *parent)
{
	enum verdict verdict = child_send(ctx, packet, parent);
	if (verdict != FORWARD_PORT)
		return verdict;
	if (HOOK_FLOODS) {
		packet->turn = TURN_ROUTED;
		return verdict;
	}
	struct ipvlan_way *way = ipvlan_way(ctx, view, slot, parent->ifindex);
	if (!way)
		return PUNT_NEIGHBOUR;
	if (packet->length - ETH_HLEN > way->hop.mtu)
		return PUNT_TOO_BIG;
	void *data = hook_data(ctx);
	if (data + ETH_HLEN > hook_data_end(ctx))
		return PUNT_ERROR;
	struct ethernet header = way->hop.header;
	header.ethertype = packet->ethertype;
	ethernet_write(data, &header);
	return verdict;
}
