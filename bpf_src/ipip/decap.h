// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// From a peer: to the stack, to a port, or to another peer.

/* The outer header of a packet for the local end of the tunnels. */
struct ipip_outer {
	__be32 saddr[4];
	__u32 length; /* bytes behind the IP header, as it says */
	__u8 tos;
	__u8 protocol;
	__u8 limit; /* an option of IPIP_LIMIT_SIZE bytes follows it, and is counted in LENGTH */
	__u8 pad;
};

/* Read the header at AT if the packet is for the local end and of a protocol that is of interest: FOR_US says so. Those that are not whole or
 * not plain are the kernel's. */
static __always_inline enum verdict ipip_outer_read(void *at, void *end, struct ipip_outer *outer, bool *for_us)
{
	__be32 local[4];
	ipip_local(local);
	if (at + OUTER_SIZE > end)
		return PASS_UNCLAIMED;
	if (PYDP_TUNNEL_IPV6) {
		struct ipv6hdr *ip = at;
		if (!ipip_same(at + 24, local, true))
			return PASS_UNCLAIMED;
		outer->protocol = ip->nexthdr;
		outer->length = bpf_ntohs(ip->payload_len);
		outer->tos = bpf_ntohs(*(__be16 *)at) >> 4;
		__builtin_memcpy(outer->saddr, &ip->saddr, 16);
		__u8 *option = at + OUTER_SIZE;
		if (outer->protocol == IP_FRAGMENT && (void *)(option + 1) <= end && option[0] == PYDP_IPIP_PROTOCOL)
			return PUNT_FRAGMENT;
		if (outer->protocol == IP_DESTINATION && (void *)(option + IPIP_LIMIT_SIZE) <= end && !option[1]) {
			outer->protocol = option[0];
			outer->limit = 1;
		}
	} else {
		struct iphdr *ip = at;
		if (ip->daddr != local[0] || (ip->protocol != PYDP_IPIP_PROTOCOL && ip->protocol != IP_ICMP))
			return PASS_UNCLAIMED;
		outer->protocol = ip->protocol;
		if (ip->frag_off & bpf_htons(0x3fff))
			return ip->protocol == IP_ICMP ? PASS_UNCLAIMED : PUNT_FRAGMENT;
		if (ip->version != 4 || ip->ihl != 5 || checksum_fold(checksum_ipv4(ip)) != 0xffff)
			return ip->protocol == IP_ICMP ? PASS_UNCLAIMED : PUNT_HEADER;
		outer->length = bpf_ntohs(ip->tot_len) - 20;
		outer->saddr[0] = ip->saddr;
		outer->tos = ip->tos;
	}
	*for_us = outer->protocol == PYDP_IPIP_PROTOCOL ||
		  (outer->protocol == (PYDP_TUNNEL_IPV6 ? IP_ICMPV6 : IP_ICMP) && !outer->limit);
	return PASS_UNCLAIMED;
}

/* A router's message about the path: take note of one that quotes a packet to a peer. The stack gets it as well. */
static __always_inline void ipip_told(hook_ctx *ctx)
{
	hook_pull(ctx, ETH_HLEN + 2 * OUTER_SIZE + 8);
	void *icmp = hook_data(ctx) + ETH_HLEN + OUTER_SIZE, *quoted = icmp + 8;
	if (quoted + OUTER_SIZE > hook_data_end(ctx))
		return;
	__be32 local[4], daddr[4] = {};
	__u32 mtu;
	ipip_local(local);
	if (PYDP_TUNNEL_IPV6) {
		struct ipv6hdr *ip = quoted;
		mtu = bpf_ntohl(*(__be32 *)(icmp + 4));
		if (*(__u8 *)icmp != 2 || ip->nexthdr != PYDP_IPIP_PROTOCOL || !ipip_same(quoted + 8, local, true))
			return;
		__builtin_memcpy(daddr, &ip->daddr, 16);
	} else {
		struct iphdr *ip = quoted;
		mtu = bpf_ntohs(*(__be16 *)(icmp + 6));
		if (*(__be16 *)icmp != bpf_htons(3 << 8 | 4) || ip->protocol != PYDP_IPIP_PROTOCOL ||
		    ip->saddr != local[0])
			return;
		daddr[0] = ip->daddr;
	}
	__u32 found = ipip_find(daddr), index = found - 1;
	struct tunnel_path *path = found ? ipip_paths.lookup(&index) : 0;
	if (path)
		path_note(path, mtu, PYDP_TUNNEL_IPV6, ipip_now());
}

/* Is the GRE header at AT that of this tunnel? Gives PASS_UNCLAIMED for one that is; checksums, numbers and other passengers are the
 * kernel's. */
static __always_inline enum verdict ipip_check_gre(const __be16 *gre)
{
	if (gre[0] & ~bpf_htons(GRE_KEY) || gre[1] != ipip_ethertype(PYDP_IPIP_INNER6))
		return PUNT_HEADER;
	if (gre[0] != (PYDP_IPIP_KEYED ? bpf_htons(GRE_KEY) : 0))
		return PUNT_VTEP;
	if (PYDP_IPIP_KEYED && *(__be32 *)(gre + 2) != bpf_htonl(PYDP_IPIP_KEY))
		return PUNT_VTEP;
	return PASS_UNCLAIMED;
}

/* May this packet, whose destination is BEHIND a peer, have come from the one FOUND? Gives PASS_UNCLAIMED if so. */
static __always_inline enum verdict ipip_check_inner(const struct inner_packet *inner, const struct ipip_outer *outer,
						     __u32 found, __u32 behind)
{
	const bool alike = PYDP_IPIP_INNER6 == PYDP_TUNNEL_IPV6;
	__be32 local[4];
	ipip_local(local);
	/* Unwrapped once: nothing in here is for this end of the tunnel again. */
	if (alike && inner->protocol == PYDP_IPIP_PROTOCOL && ipip_same(inner->daddr, local, PYDP_TUNNEL_IPV6))
		return DROP_INNER;
	if (PYDP_IPIP_SOURCE_CHECK && !(alike && ipip_same(inner->saddr, outer->saddr, PYDP_TUNNEL_IPV6)) &&
	    ipip_behind(inner->saddr) != found)
		return DROP_SPOOFED;
	if ((alike && ipip_same(inner->daddr, outer->saddr, PYDP_TUNNEL_IPV6)) || behind == found)
		return DROP_LOOP;
	return PASS_UNCLAIMED;
}

/* The way to the port that the inner packet can be sent out of at once; 0 if the routing is to have it. */
static __always_inline struct ipip_way *ipip_way(hook_ctx *ctx, const struct inner_packet *inner, __u32 length,
						 __u32 now)
{
	if (!PYDP_IPIP_DIRECT || inner->ttl <= 1 || !inner->plain || !inner->right ||
	    !inner_source_sane(inner, PYDP_IPIP_INNER6))
		return 0;
	__u32 place = ipip_place(inner->daddr);
	struct ipip_way *way = ipip_ways.lookup(&place);
	if (!way)
		return 0;
	if (!way->hop.checked || !ipip_same(way->address, inner->daddr, PYDP_IPIP_INNER6)) {
		ipip_copy(way->address, inner->daddr, PYDP_IPIP_INNER6);
		way->hop.ready = 0;
		way->hop.shown = now;
	}
	enum hop_answer answer = hop_find(ctx, &way->hop, inner->daddr, inner->saddr, PYDP_IPIP_UNDERLAY,
					  PYDP_IPIP_INNER6, inner->protocol, now, true);
	return answer == HOP_READY && length <= way->hop.mtu ? way : 0;
}

/* The port of that ifindex; 0 if there is none. */
static __always_inline struct ipip_port *ipip_port(__u32 ifindex)
{
	__u32 place = ifindex & (PYDP_IPIP_PLACES - 1);
	struct ipip_port *port = ipip_devices.lookup(&place);
	return port && port->ifindex == ifindex ? port : 0;
}

/* Take ROOM bytes of outer headers off, and put HEADER in front. */
static __always_inline bool ipip_unwrap(hook_ctx *ctx, __u32 room, const struct ethernet *header)
{
	const __u64 flags = PYDP_IPIP_INNER6 == PYDP_TUNNEL_IPV6 ? 0 : PYDP_IPIP_INNER6 ? HOOK_NOW_IPV6 : HOOK_NOW_IPV4;
	if (!hook_close(ctx, room, flags))
		return false;
	void *data = hook_data(ctx);
	if (data + ETH_HLEN > hook_data_end(ctx))
		return false;
	ethernet_write(data, header);
	return true;
}

/* The length of an inner packet behind ROOM bytes of outer headers, or of one of the pieces that it is cut into. */
static __always_inline __u32 ipip_piece(hook_ctx *ctx, const struct inner_packet *inner, __u32 room)
{
	if (!hook_is_gso(ctx))
		return inner->length;
	const __u32 header = PYDP_IPIP_INNER6 ? 40 : 20;
	__u8 *tcp = hook_data(ctx) + ETH_HLEN + room + header;
	bool is_tcp = inner->protocol == IP_TCP && (void *)(tcp + 13) <= hook_data_end(ctx);
	return header + (is_tcp ? (tcp[12] >> 4) * 4 : 8) + hook_gso_size(ctx);
}

/* From one peer to another: the packet stays in its outer headers, which are written anew, as a device that is to cut it up could not be told
 * twice what it is. False if the stack is to try. */
static __always_inline bool ipip_relay(hook_ctx *ctx, struct packet *packet, const struct inner_packet *read,
				       __u32 behind, __u16 payload, __u8 ecn, __u32 now)
{
	__u32 index = behind - 1;
	struct ipip_peer *peer = behind ? ipip_peers.lookup(&index) : 0;
	struct hop *hop = peer ? ipip_hops.lookup(&index) : 0;
	struct tunnel_path *path = hop ? ipip_paths.lookup(&index) : 0;
	if (!peer || !hop || !path || read->ttl <= 1 || !read->plain || !read->right ||
	    !inner_source_sane(read, PYDP_IPIP_INNER6))
		return false;
	__be32 local[4];
	ipip_local(local);
	enum hop_answer answer = hop_find(ctx, hop, peer->address, local, PYDP_IPIP_UNDERLAY, PYDP_TUNNEL_IPV6,
					  PYDP_IPIP_PROTOCOL, now, !hook_is_gso(ctx));
	if (!hop->ready || (answer != HOP_READY && !hook_is_gso(ctx)) ||
	    ipip_piece(ctx, read, IPIP_ROOM) + IPIP_ROOM > path_mtu(path, hop->mtu, now))
		return false;
	struct inner inner = { .tos = (read->tos & ~ECN_MASK) | ecn, .ttl = read->ttl - 1, .df = read->df };
	const bool df = outer_df(PYDP_IPIP_FLAGS, &inner);
	struct outer outer = {
		.saddr = local,
		.daddr = peer->address,
		.payload = payload,
		.id = df ? 0 : hop->id,
		.tos = outer_tos(PYDP_IPIP_FLAGS, PYDP_IPIP_TOS, &inner),
		.ttl = outer_ttl(PYDP_IPIP_FLAGS, PYDP_IPIP_TTL, PYDP_TUNNEL_TTL, &inner),
		.protocol = PYDP_IPIP_PROTOCOL,
		.df = df,
	};
	struct ethernet header = hop->header;
	void *data = hook_data(ctx), *at = data + ETH_HLEN + IPIP_ROOM;
	if (at + (PYDP_IPIP_INNER6 ? 40 : 20) > hook_data_end(ctx))
		return false;
	hop->id += hook_gso_segments(ctx);
	header.ethertype = ipip_ethertype(PYDP_TUNNEL_IPV6);
	ethernet_write(data, &header);
	outer_write(data + ETH_HLEN, &outer);
	inner_set_ecn(at, PYDP_IPIP_INNER6, ecn);
	inner_age(at, PYDP_IPIP_INNER6);
	packet->egress = hop->ifindex;
	ipip_count_sent(index, peer->owner, read->length);
	return true;
}

/* Send the inner packet on, or leave it to the stack; ROOM bytes of outer headers are in front of it, ECN is what it becomes. */
static __always_inline enum verdict ipip_deliver(hook_ctx *ctx, struct packet *packet, const struct inner_packet *inner,
						 const struct ipip_outer *outer, __u32 slot, __u32 behind, __u32 room,
						 __u8 ecn, __u64 stamp)
{
	__u32 now = ipip_now();
	if (!PYDP_IPIP_ADOPTED && room == IPIP_ROOM && ipip_relay(ctx, packet, inner, behind, outer->length, ecn, now))
		return FORWARD_ENCAP;
	struct ipip_way *way = ipip_way(ctx, inner, ipip_piece(ctx, inner, room), now);
	struct ipip_port *out = way ? ipip_port(way->hop.ifindex) : 0;
	if (PYDP_IPIP_ADOPTED && !out)
		return PUNT_ROUTE;
	void *data = hook_data(ctx), *at = data + ETH_HLEN + room;
	if (at + (PYDP_IPIP_INNER6 ? 40 : 20) > hook_data_end(ctx))
		return PUNT_TRUNCATED;
	if (ecn != (inner->tos & ECN_MASK))
		inner_set_ecn(at, PYDP_IPIP_INNER6, ecn);
	struct ethernet header;
	ethernet_read(&header, data);
	if (way && out) {
		inner_age(at, PYDP_IPIP_INNER6);
		header = way->hop.header;
		packet->egress = out->ifindex;
		packet->peer = out->flags & IPIP_VETH_PEER;
		if (IPIP_AGAIN && !behind && !ipip_find(inner->daddr)) /* what is for a peer may have come from it */
			ipip_keep(packet, slot, inner->daddr[0], &way->hop, way->hop.mtu, stamp);
	}
	header.ethertype = ipip_ethertype(PYDP_IPIP_INNER6);
	if (!ipip_unwrap(ctx, room, &header))
		return PUNT_ERROR;
	return out ? FORWARD_DECAP : PASS_DECAP;
}

/* In by the underlay. */
static __always_inline enum verdict ipip_arriving(hook_ctx *ctx, struct packet *packet, __u32 slot, __u64 stamp)
{
	struct ipip_outer outer = {};
	struct inner_packet inner = {};
	bool for_us = false;
	if (packet->ethertype != ipip_ethertype(PYDP_TUNNEL_IPV6) || packet->tags)
		return PASS_UNCLAIMED;
	hook_pull(ctx, ETH_HLEN + OUTER_SIZE + IPIP_LIMIT_SIZE);
	enum verdict verdict = ipip_outer_read(hook_data(ctx) + ETH_HLEN, hook_data_end(ctx), &outer, &for_us);
	if (!for_us)
		return verdict;
	struct ipip_port *in = ipip_ports.lookup(&slot);
	if (outer.protocol != PYDP_IPIP_PROTOCOL) {
		if (in && packet->dest == in->mac)
			ipip_told(ctx);
		return PASS_UNCLAIMED;
	}
	if (!in || packet->dest != in->mac)
		return PUNT_ADDRESS;
	__u32 room = IPIP_ROOM + (outer.limit ? IPIP_LIMIT_SIZE : 0);
	hook_pull(ctx, ETH_HLEN + IPIP_ROOM + IPIP_LIMIT_SIZE + IPIP_HEADERS);
	void *at = hook_data(ctx) + ETH_HLEN + room, *end = hook_data_end(ctx);
	if ((packet->length < ETH_HLEN + OUTER_SIZE + outer.length && !hook_is_gso(ctx)) || at > end)
		return PUNT_TRUNCATED;
	verdict = PYDP_IPIP_GRE ? ipip_check_gre(at - IPIP_GRE_SIZE) : PASS_UNCLAIMED;
	if (verdict != PASS_UNCLAIMED)
		return verdict;
	__u32 found = ipip_find(outer.saddr), index = found - 1;
	struct ipip_peer *peer = found ? ipip_peers.lookup(&index) : 0;
	if (!peer)
		return PUNT_VTEP;
	packet->tunnel = found;
	if (!inner_packet_read(at, end, PYDP_IPIP_INNER6, &inner))
		return DROP_INNER;
	if (hook_is_gso(ctx))
		inner.length = packet->length - ETH_HLEN - room;
	else if (inner.length < inner.header || OUTER_SIZE + outer.length < room + inner.length)
		return DROP_INNER;
	__u32 behind = ipip_behind(inner.daddr);
	verdict = ipip_check_inner(&inner, &outer, found, behind);
	if (verdict != PASS_UNCLAIMED)
		return verdict;
	__u8 ecn = inner_ecn(outer.tos, inner.tos);
	if (ecn == ECN_LOST)
		return DROP_ECN;
	verdict = ipip_deliver(ctx, packet, &inner, &outer, slot, behind, room, ecn, stamp);
	if (verdict == FORWARD_DECAP || verdict == PASS_DECAP || verdict == FORWARD_ENCAP)
		ipip_count_received(index, peer->owner, inner.length);
	if (IPIP_AGAIN && verdict == FORWARD_DECAP)
		ipip_keep_source(inner.saddr[0], outer.saddr[0], index, stamp);
	return verdict;
}
