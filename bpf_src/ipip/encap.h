// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// To a peer: what the stack sends out of the underlay, and what comes in by a port.

/* How an inner packet is to go to a peer. */
struct ipip_out {
	__u32 length; /* of the packet in bytes */
	__u8 df; /* outside */
	__u8 aged; /* its TTL is to be taken one from */
	__u8 there; /* the hop's addresses are to be used */
	__u8 pad;
};

/* Make room for the outer headers. What came out of a tunnel itself, or goes into its second one, cannot be told from one that the device
 * below is to cut up; if it need not, the room alone will do. */
static __always_inline bool ipip_open(hook_ctx *ctx)
{
	const __u64 l3 = PYDP_TUNNEL_IPV6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	const __u64 flags = l3 | (PYDP_IPIP_GRE ? BPF_F_ADJ_ROOM_ENCAP_L4_GRE : 0);
	if (hook_open(ctx, IPIP_ROOM, flags))
		return true;
	return HOOK_OPENS_IP && PYDP_IPIP_INNER6 == PYDP_TUNNEL_IPV6 && !hook_is_gso(ctx) &&
	       hook_open(ctx, IPIP_ROOM, 0);
}

/* Put the packet into one for PEER. */
static __always_inline bool ipip_wrap(hook_ctx *ctx, const struct ipip_peer *peer, struct hop *hop,
				      const struct inner *inner, const struct ipip_out *out)
{
	__be32 local[4];
	ipip_local(local);
	struct outer outer = {
		.saddr = local,
		.daddr = peer->address,
		.payload = IPIP_GRE_SIZE + out->length,
		.id = out->df ? 0 : hop->id, /* RFC 6864 4.1 */
		.tos = outer_tos(PYDP_IPIP_FLAGS, PYDP_IPIP_TOS, inner),
		.ttl = outer_ttl(PYDP_IPIP_FLAGS, PYDP_IPIP_TTL, PYDP_TUNNEL_TTL, inner),
		.protocol = PYDP_IPIP_PROTOCOL,
		.df = out->df,
	};
	hop->id += hook_gso_segments(ctx);
	struct ethernet header = hop->header;
	void *data = hook_data(ctx);
	if (data + ETH_HLEN > hook_data_end(ctx))
		return false;
	if (!out->there)
		ethernet_read(&header, data);
	header.ethertype = ipip_ethertype(PYDP_TUNNEL_IPV6);
	if (!ipip_open(ctx))
		return false;
	data = hook_data(ctx);
	void *packet = data + ETH_HLEN + IPIP_ROOM;
	if (packet + (PYDP_IPIP_INNER6 ? 40 : 20) > hook_data_end(ctx))
		return false;
	ethernet_write(data, &header);
	outer_write(data + ETH_HLEN, &outer);
	if (PYDP_IPIP_GRE) {
		__be16 *gre = data + ETH_HLEN + OUTER_SIZE;
		gre[0] = PYDP_IPIP_KEYED ? bpf_htons(GRE_KEY) : 0;
		gre[1] = ipip_ethertype(PYDP_IPIP_INNER6);
		if (PYDP_IPIP_KEYED)
			*(__be32 *)(gre + 2) = bpf_htonl(PYDP_IPIP_KEY);
	}
	if (out->aged)
		inner_age(packet, PYDP_IPIP_INNER6);
	return true;
}

/* A packet that is on its way out of the underlay and too long for the path to its peer: answered, also where it does not forbid to cut
 * it up. Cut up outside it would be lost at a peer that has no tunnel device, which nobody puts it together for. */
static __always_inline enum verdict ipip_too_big(hook_ctx *ctx, struct packet *packet, __u32 mtu)
{
	if (too_big_answers(ctx, packet, mtu - IPIP_ROOM, true)) {
		if (!too_big_reply(ctx, packet, mtu - IPIP_ROOM))
			return DROP_MTU;
		packet->egress = PYDP_IPIP_UNDERLAY;
		packet->turn = TURN_BACK;
		return FORWARD_REPLY;
	}
	return DROP_MTU;
}

/* On the way out of the underlay. What is for a peer never leaves as it is. */
static __always_inline enum verdict ipip_leaving(hook_ctx *ctx, struct packet *packet)
{
	if (packet->ethertype != ipip_ethertype(PYDP_IPIP_INNER6) || packet->tags)
		return PASS_UNCLAIMED;
	hook_pull(ctx, ETH_HLEN + IPIP_HEADERS);
	if (IPIP_MAPPED && solicit_ours(ctx)) {
		packet->egress = PYDP_IPIP_UNDERLAY;
		packet->turn = TURN_BACK;
		return solicit_answer(ctx, SOLICIT_MAC) ? FORWARD_REPLY : DROP_INNER;
	}
	struct inner_packet read = {};
	if (!inner_packet_read(hook_data(ctx) + ETH_HLEN, hook_data_end(ctx), PYDP_IPIP_INNER6, &read))
		return PASS_UNCLAIMED;
	__u32 found = ipip_behind(read.daddr), index = found - 1, now = ipip_now();
	if (!found)
		return PASS_UNCLAIMED;
	struct ipip_peer *peer = ipip_peers.lookup(&index);
	struct hop *hop = ipip_hops.lookup(&index);
	struct tunnel_path *path = ipip_paths.lookup(&index);
	if (!peer || !hop || !path)
		return DROP_INNER;
	packet->tunnel = found;
	__be32 local[4];
	ipip_local(local);
	hop_renew(ctx, hop, peer->address, local, PYDP_IPIP_UNDERLAY, PYDP_TUNNEL_IPV6, PYDP_IPIP_PROTOCOL, now);
	struct inner inner = {};
	inner_read(ctx, packet, &inner);
	__u32 device_mtu = hop->ready && hop->mtu < PYDP_TUNNEL_MTU ? hop->mtu : PYDP_TUNNEL_MTU;
	__u32 mtu = path_mtu(path, device_mtu, now), length = inner_length(ctx, packet, &inner) + IPIP_ROOM;
	struct ipip_out out = { .length = packet->length - ETH_HLEN, .df = outer_df(PYDP_IPIP_FLAGS, &inner) };
	if (length > mtu)
		return ipip_too_big(ctx, packet, mtu);
	out.there = hop->ready;
	if (!ipip_wrap(ctx, peer, hop, &inner, &out))
		return DROP_INNER;
	ipip_count_sent(index, peer->owner, out.length);
	packet->egress = PYDP_IPIP_UNDERLAY;
	if (hop->ready && hop->ifindex != PYDP_IPIP_UNDERLAY) {
		packet->egress = hop->ifindex;
		return FORWARD_ENCAP;
	}
	if (hop->ready || !IPIP_MAPPED)
		return PASS_ENCAP;
	packet->turn = TURN_ROUTED;
	return FORWARD_ENCAP;
}

/* In by a port: what is for a peer goes there without the stack, which has the rest. */
static __always_inline enum verdict ipip_from_port(hook_ctx *ctx, struct packet *packet, __u32 slot, __u64 stamp)
{
	struct ipip_port *in = ipip_ports.lookup(&slot);
	if (!in || packet->ethertype != ipip_ethertype(PYDP_IPIP_INNER6) || packet->tags || packet->dest != in->mac)
		return PASS_UNCLAIMED;
	hook_pull(ctx, ETH_HLEN + IPIP_HEADERS);
	struct inner_packet read = {};
	if (!inner_packet_read(hook_data(ctx) + ETH_HLEN, hook_data_end(ctx), PYDP_IPIP_INNER6, &read))
		return PASS_UNCLAIMED;
	__u32 found = ipip_behind(read.daddr), index = found - 1, now = ipip_now();
	struct ipip_peer *peer = found ? ipip_peers.lookup(&index) : 0;
	struct hop *hop = peer ? ipip_hops.lookup(&index) : 0;
	struct tunnel_path *path = hop ? ipip_paths.lookup(&index) : 0;
	if (!peer || !hop || !path)
		return PASS_UNCLAIMED;
	packet->tunnel = found;
	if (!read.plain || !read.right || !inner_source_sane(&read, PYDP_IPIP_INNER6) ||
	    (!hook_is_gso(ctx) && (read.length < read.header || read.length > packet->length - ETH_HLEN)))
		return PUNT_HEADER;
	if (read.ttl <= 1)
		return PUNT_TTL;
	__be32 local[4];
	ipip_local(local);
	enum hop_answer answer =
		hop_find(ctx, hop, peer->address, local, in->ifindex, PYDP_TUNNEL_IPV6, PYDP_IPIP_PROTOCOL, now, true);
	if (answer != HOP_READY)
		return PUNT_NEIGHBOUR;
	struct inner inner = {};
	inner_read(ctx, packet, &inner);
	inner.ttl--;
	/* The padding of a short frame stays behind the packet. */
	struct ipip_out out = { .length = hook_is_gso(ctx) ? packet->length - ETH_HLEN : read.length,
				.df = outer_df(PYDP_IPIP_FLAGS, &inner),
				.aged = 1,
				.there = 1 };
	__u32 piece = hook_is_gso(ctx) ? inner_length(ctx, packet, &inner) : read.length;
	__u32 mtu = path_mtu(path, hop->mtu, now);
	if (piece + IPIP_ROOM > mtu)
		return PUNT_TOO_BIG;
	if (!ipip_wrap(ctx, peer, hop, &inner, &out))
		return PUNT_ERROR;
	ipip_count_sent(index, peer->owner, out.length);
	packet->egress = hop->ifindex;
	if (IPIP_AGAIN_IN)
		ipip_keep_peer(packet, slot, read.daddr[0], hop, mtu - IPIP_ROOM, peer, index, stamp);
	return FORWARD_ENCAP;
}

// Out of the tunnel
