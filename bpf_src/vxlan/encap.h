// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// From a port to a VTEP: in eBPF, or by handing the frame to the companion with the VTEP in its tunnel metadata.

/* The metadata by which the companion encapsulates: what the outer header would get here, but for the VTEP's address.
 * Returns the flags that go with it. */
static __always_inline __u64 vxlan_key(struct bpf_tunnel_key *key, const struct vxlan_vtep *vtep,
				       const struct inner *inner)
{
	__be32 local[4];
	__u64 flags = PYDP_TUNNEL_IPV6 ? BPF_F_TUNINFO_IPV6 : 0;
	vxlan_local(local);
	key->tunnel_id = vtep->vni;
	key->tunnel_tos = vtep->tunnel & TUNNEL_TOS_INHERIT ? inner->tos : vtep->tos;
	key->tunnel_ttl =
		vtep->flags & VTEP_GROUP && !vtep->ttl ? 1 : outer_ttl(vtep->tunnel, vtep->ttl, PYDP_TUNNEL_TTL, inner);
	if (PYDP_TUNNEL_IPV6)
		__builtin_memcpy(key->local_ipv6, local, 16);
	else
		key->local_ipv4 = bpf_ntohl(local[0]);
	if (!(vtep->tunnel & TUNNEL_CHECKSUM))
		flags |= BPF_F_ZERO_CSUM_TX;
	if (!PYDP_TUNNEL_IPV6 && outer_df(vtep->tunnel, inner))
		flags |= BPF_F_DONT_FRAGMENT;
	return flags;
}

/* Write the metadata for VTEP. */
static __always_inline bool vxlan_describe(hook_ctx *ctx, struct bpf_tunnel_key *key, const struct vxlan_vtep *vtep,
					   __u64 flags)
{
	if (PYDP_TUNNEL_IPV6)
		__builtin_memcpy(key->remote_ipv6, vtep->address, 16);
	else
		key->remote_ipv4 = bpf_ntohl(vtep->address[0]);
	return hook_describe(ctx, key, flags);
}

/* Let the kernel encapsulate the frame for a VTEP. */
static __always_inline enum verdict vxlan_hand_over(hook_ctx *ctx, struct packet *packet, const struct vxlan_vtep *vtep,
						    __u32 index, const struct inner *inner, enum verdict why)
{
	if (PYDP_VXLAN_ADOPTED || !HOOK_FLOODS)
		return why;
	struct bpf_tunnel_key key = {};
	__u64 flags = vxlan_key(&key, vtep, inner);
	if (!vxlan_describe(ctx, &key, vtep, flags))
		return PUNT_ERROR;
	vxlan_count_sent(vtep, index, packet->length);
	packet->companion = PYDP_VXLAN_COMPANION;
	return why;
}

/* A packet that is longer than the path takes: answered where the kernel answers, fragmented outside by it where it does that. */
static __always_inline enum verdict vxlan_too_big(hook_ctx *ctx, struct packet *packet, const struct vxlan_vtep *vtep,
						  __u32 index, const struct vxlan_port *in, const struct inner *inner,
						  __u32 mtu)
{
	if (PYDP_VXLAN_ADOPTED || !too_big_answers(ctx, packet, mtu, false))
		return vxlan_hand_over(ctx, packet, vtep, index, inner, PUNT_TOO_BIG);
	if (!too_big_reply(ctx, packet, mtu))
		return PUNT_ERROR;
	packet->egress = in->ifindex;
	return FORWARD_REPLY;
}

/* Add to SUM what the UDP checksum covers: the IP addresses, and LENGTH bytes from the UDP header on, at AT, where the outer IP header is. False
 * if they cannot be told without reading them. */
static __always_inline bool vxlan_sum(const void *at, const void *end, __u32 length, __u64 *sum)
{
	const void *udp = at + OUTER_SIZE, *frame = udp + 16;
	if (frame + ETH_HLEN > end)
		return false;
	*sum += whole_words(PYDP_TUNNEL_IPV6 ? at + 8 : at + 12, PYDP_TUNNEL_IPV6 ? 16 : 4);
	*sum += bpf_htons(length) + bpf_htons(IP_UDP) + whole_words(udp, 8 + ETH_HLEN / 2);
	return whole_ip(frame + ETH_HLEN, end, *(__be16 *)(frame + 2 * ETH_ALEN), length - 16 - ETH_HLEN, sum);
}

/* The number of the next outer header: where there is a short way, it is counted there. */
static __always_inline __u16 vxlan_id(hook_ctx *ctx, struct hop *hop)
{
	struct recents *here = VXLAN_AGAIN ? recents_here() : 0;
	if (here)
		return recent_id(here, hook_gso_segments(ctx));
	__u16 id = hop->id;
	hop->id += hook_gso_segments(ctx);
	return id;
}

/* Put the frame into a packet for VTEP, all of whose headers are known, and send it. */
static __always_inline enum verdict vxlan_wrap(hook_ctx *ctx, struct packet *packet, const struct vxlan_vtep *vtep,
					       struct hop *hop, const struct inner *inner)
{
	__be32 local[4];
	vxlan_local(local);
	struct outer outer = {
		.saddr = local,
		.daddr = vtep->address,
		.payload = 16 + packet->length,
		.id = vxlan_id(ctx, hop),
		.tos = outer_tos(vtep->tunnel, vtep->tos, inner),
		.ttl = outer_ttl(vtep->tunnel, vtep->ttl, PYDP_TUNNEL_TTL, inner),
		.protocol = IP_UDP,
		.df = outer_df(vtep->tunnel, inner),
	};
	__u16 sport = flow_source_port(flow_hash(ctx, packet), vtep->low, vtep->high);
	struct ethernet inner_header, header = hop->header;
	void *data = hook_data(ctx);
	if (data + ETH_HLEN > hook_data_end(ctx))
		return PUNT_ERROR;
	ethernet_read(&inner_header, data);
	if (!hook_open(ctx, VXLAN_ROOM, VXLAN_OPENS))
		return PUNT_PROTOCOL; /* a GSO frame of other than TCP and UDP */
	data = hook_data(ctx);
	if (data + VXLAN_FIRST > hook_data_end(ctx))
		return PUNT_ERROR;
	header.ethertype = bpf_htons(PYDP_TUNNEL_IPV6 ? ETH_P_IPV6 : ETH_P_IP);
	ethernet_write(data, &header);
	outer_write(data + ETH_HLEN, &outer);
	__be16 *udp = data + ETH_HLEN + OUTER_SIZE;
	*(__u64 *)udp = bpf_htonl((__u32)sport << 16 | PYDP_VXLAN_PORT) | (__u64)bpf_htons(16 + packet->length) << 32;
	__be32 *vxlan = data + ETH_HLEN + OUTER_SIZE + 8;
	*(__u64 *)vxlan = bpf_htonl(VXLAN_FLAGS) | (__u64)bpf_htonl(vtep->vni << 8) << 32;
	if (HOOK_HEADER_STAYS)
		ethernet_write(vxlan + 2, &inner_header);
	if (vtep->tunnel & TUNNEL_CHECKSUM) {
		__u64 sum = 0;
		if (!vxlan_sum(data + ETH_HLEN, hook_data_end(ctx), 16 + packet->length, &sum))
			return PUNT_ERROR;
		__u16 check = ~checksum_fold(sum);
		udp[3] = check ? check : 0xffff; /* 0 says that there is none (RFC 768) */
	}
	packet->egress = hop->ifindex;
	return FORWARD_ENCAP;
}

/* Can the outer checksum be told from the headers? Not that of each piece of a frame that is cut up below. */
static __always_inline bool vxlan_can_sum(hook_ctx *ctx, const struct packet *packet)
{
	__u64 sum = 0;
	void *data = hook_data(ctx), *end = hook_data_end(ctx);
	return !hook_is_gso(ctx) && packet->network == ETH_HLEN &&
	       whole_ip(data + ETH_HLEN, end, packet->ethertype, packet->length - ETH_HLEN, &sum);
}

/* A frame from port IN, in SLOT, for the VTEP with this index. Gives PASS_UNCLAIMED if the segment has none there (any more). */
static __always_inline enum verdict vxlan_encap(hook_ctx *ctx, struct packet *packet, __u32 slot,
						const struct vxlan_port *in, __u32 index, __u32 now, __u64 stamp)
{
	struct vxlan_vtep *vtep = vxlan_vtep(index);
	struct hop *hop = vxlan_hops.lookup(&index);
	if (!vtep || !hop || !(vtep->flags & VTEP_PRESENT) || vtep->segment != in->segment)
		return PASS_UNCLAIMED;
	packet->tunnel = index + 1;
	struct inner inner = {};
	hook_pull(ctx, VXLAN_HEADERS);
	inner_read(ctx, packet, &inner);
	if (!HOOK_TAG_IN_FRAME && packet->length && hook_tagged(ctx))
		return vxlan_hand_over(ctx, packet, vtep, index, &inner, PUNT_TAGGED);
	if (HOOK_OPENS_IP && (packet->network != ETH_HLEN || !inner.version))
		return vxlan_hand_over(ctx, packet, vtep, index, &inner, PUNT_PROTOCOL);
	if (vtep->tunnel & TUNNEL_CHECKSUM && !vxlan_can_sum(ctx, packet))
		return vxlan_hand_over(ctx, packet, vtep, index, &inner, PUNT_CHECKSUM);
	__be32 local[4];
	vxlan_local(local);
	enum hop_answer answer = hop_find(ctx, hop, vtep->address, local, PYDP_TUNNEL_VIEWPOINT, PYDP_TUNNEL_IPV6,
					  IP_UDP, now, HOOK_FLOODS || PYDP_VXLAN_ADOPTED);
	__u32 mtu = hop->ready ? hop->mtu : PYDP_TUNNEL_MTU;
	if (inner_length(ctx, packet, &inner) + VXLAN_ROOM > mtu)
		return vxlan_too_big(ctx, packet, vtep, index, in, &inner, mtu - VXLAN_ROOM);
	if (answer != HOP_READY)
		return vxlan_hand_over(ctx, packet, vtep, index, &inner, PUNT_NEIGHBOUR);
	enum verdict verdict = vxlan_wrap(ctx, packet, vtep, hop, &inner);
	if (verdict == FORWARD_ENCAP)
		vxlan_count_sent(vtep, index, packet->length);
	if (VXLAN_AGAIN && verdict == FORWARD_ENCAP)
		vxlan_keep_vtep(ctx, packet, slot, vtep, hop, index, stamp);
	return verdict == PUNT_PROTOCOL ? vxlan_hand_over(ctx, packet, vtep, index, &inner, verdict) : verdict;
}
