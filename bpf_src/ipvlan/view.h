// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What a frame says about IP addresses, as ipvlan_get_L3_hdr() and ipvlan_addr_lookup() of drivers/net/ipvlan/ipvlan_core.c see it.

enum ipvlan_kind {
	IPVLAN_OTHER = 0, /* nothing */
	IPVLAN_IPV4 = 4,
	IPVLAN_IPV6 = 6,
	IPVLAN_ARP = 10,
};

enum ipvlan_layout {
	IPVLAN_HEADERS =
		72, /* bytes that are looked at behind the Ethernet header: IPv6, and a solicitation as far as its target */
	IPVLAN_SOLICITATION = 64, /* the shortest IPv6 packet that has a target */
};

struct ipvlan_view {
	__be32 saddr[4]; /* of ARP: the sender's and the target's */
	__be32 daddr[4];
	enum ipvlan_kind kind;
};

static __always_inline void ipvlan_view_ipv4(const struct packet *packet, const void *at, struct ipvlan_view *view,
					     bool whole)
{
	const struct iphdr *ip = at;
	__u16 length = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || ip->ihl < 5 || length < ip->ihl * 4 ||
	    (!whole && packet->length - packet->network < length))
		return;
	view->kind = IPVLAN_IPV4;
	view->saddr[0] = ip->saddr;
	view->daddr[0] = ip->daddr;
}

/* A host that looks whether its address is free asks without having one: then the address asked for counts. */
static __always_inline void ipvlan_view_ipv6(const void *at, const void *end, struct ipvlan_view *view)
{
	const struct ipv6hdr *ip = at;
	const __u8 *byte = at;
	if (ip->version != 6)
		return;
	view->kind = IPVLAN_IPV6;
	__builtin_memcpy(view->saddr, &ip->saddr, 16);
	__builtin_memcpy(view->daddr, &ip->daddr, 16);
	if (view->saddr[0] | view->saddr[1] | view->saddr[2] | view->saddr[3] || ip->nexthdr != IP_ICMPV6)
		return;
	__builtin_memset(view->daddr, 0, 16);
	if (at + IPVLAN_SOLICITATION > end) {
		view->kind = IPVLAN_OTHER;
	} else if (byte[40] == 135) {
		__builtin_memcpy(view->saddr, at + 48, 16);
		__builtin_memcpy(view->daddr, at + 48, 16);
	}
}

/* Read a frame with up to MOST tags. The kernel looks behind a tag that it has taken off, on the way in, and not behind others. */
static __always_inline void ipvlan_read(hook_ctx *ctx, const struct packet *packet, const __u16 most,
					struct ipvlan_view *view)
{
	if (packet->tags > most)
		return;
	hook_pull(ctx, packet->network + IPVLAN_HEADERS);
	void *at = hook_data(ctx) + packet->network, *end = hook_data_end(ctx);
	if (packet->ethertype == bpf_htons(ETH_P_IP) && at + sizeof(struct iphdr) <= end) {
		ipvlan_view_ipv4(packet, at, view, hook_is_gso(ctx));
	} else if (packet->ethertype == bpf_htons(ETH_P_IPV6) && at + sizeof(struct ipv6hdr) <= end) {
		ipvlan_view_ipv6(at, end, view);
	} else if (packet->ethertype == bpf_htons(ETH_P_ARP) && at + ARP_SIZE <= end) {
		struct arp *arp = at;
		view->kind = IPVLAN_ARP;
		view->saddr[0] = *(__be32 *)(arp->addresses + 6);
		view->daddr[0] = *(__be32 *)(arp->addresses + 16);
	}
}

static __always_inline __u32 ipvlan_receiver(const struct ipvlan_view *view)
{
	return view->kind ? ipvlan_owner(view->daddr, view->kind == IPVLAN_IPV6 ? 6 : 4) : CHILD_NOBODY;
}

static __always_inline __u32 ipvlan_sender(const struct ipvlan_view *view)
{
	return view->kind ? ipvlan_owner(view->saddr, view->kind == IPVLAN_IPV6 ? 6 : 4) : CHILD_NOBODY;
}
