// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// From a VTEP: the frame in a packet of the underlay, or one that the companion took out of its packet.

/* A frame of a segment, wherever it came from. */
struct vxlan_frame {
	__u64 dest;
	__u64 source;
	__u32 length; /* in bytes, a tag in it included */
	__u32 segment;
	__u32 from; /* slot, or with FDB_REMOTE the index of the VTEP */
	__u32 device; /* ifindex of the port, 0 for a VTEP */
	struct vxlan_vtep *vtep; /* null for a port */
	__u64 door; /* of struct recent_sender */
	__u16 tagged; /* it begins with a VLAN tag */
	__u16 learning; /* where it came from is to be learned */
};

/* The outer header of a packet for this end of the tunnels. */
struct vxlan_outer {
	__be32 saddr[4]; /* IPv4 in the first word */
	__u32 length; /* bytes behind the IP header, as it says */
	__u8 tos;
	__u8 pad[3];
};

/* Is the packet UDP from IP header to IP header for the local end? Reads OUTER. Fragments and packets with options or extension headers
 * are the kernel's; of these, the first give PUNT_FRAGMENT. */
static __always_inline enum verdict vxlan_for_us(void *at, void *end, struct vxlan_outer *outer, bool *for_us)
{
	__be32 local[4];
	vxlan_local(local);
	*for_us = false;
	if (at + OUTER_SIZE > end)
		return PASS_UNCLAIMED;
	if (PYDP_TUNNEL_IPV6) {
		struct ipv6hdr *ip = at;
		const __be32 *daddr = at + 24;
		if ((daddr[0] ^ local[0]) | (daddr[1] ^ local[1]) | (daddr[2] ^ local[2]) | (daddr[3] ^ local[3]))
			return PASS_UNCLAIMED;
		if (ip->nexthdr != IP_UDP)
			return ip->nexthdr == IP_FRAGMENT ? PUNT_FRAGMENT : PASS_UNCLAIMED;
		__builtin_memcpy(outer->saddr, &ip->saddr, 16);
		outer->length = bpf_ntohs(ip->payload_len);
		outer->tos = bpf_ntohs(*(__be16 *)at) >> 4;
		if (ip->version != 6)
			return PUNT_HEADER;
	} else {
		struct iphdr *ip = at;
		if (ip->daddr != local[0] || ip->protocol != IP_UDP)
			return PASS_UNCLAIMED;
		if (ip->frag_off & bpf_htons(0x3fff))
			return PUNT_FRAGMENT;
		if (ip->version != 4 || ip->ihl != 5 || checksum_fold(checksum_ipv4(ip)) != 0xffff)
			return PUNT_HEADER;
		outer->saddr[0] = ip->saddr;
		outer->length = bpf_ntohs(ip->tot_len) - 20;
		outer->tos = ip->tos;
	}
	*for_us = true;
	return PASS_UNCLAIMED;
}

/* Is the UDP checksum right, as far as can be told? A frame that comes in pieces was checked when they were put together, or never left
 * this machine. */
static __always_inline bool vxlan_checksum_right(hook_ctx *ctx, const void *at, const void *end, __u32 length)
{
	__u64 sum = 0;
	return hook_is_gso(ctx) || (vxlan_sum(at, end, length, &sum) && checksum_fold(sum) == 0xffff);
}

/* Everything about the UDP and VXLAN headers that a plain packet has. Gives PASS_UNCLAIMED for one that is. */
static __always_inline enum verdict vxlan_check(void *at, const struct packet *packet, const struct vxlan_outer *outer)
{
	__be16 *udp = at + OUTER_SIZE;
	__be32 *vxlan = at + OUTER_SIZE + 8;
	if (packet->length != ETH_HLEN + OUTER_SIZE + outer->length || bpf_ntohs(udp[2]) != outer->length)
		return PUNT_HEADER;
	if (vxlan[0] != bpf_htonl(VXLAN_FLAGS) || bpf_ntohl(vxlan[1]) & 0xff)
		return PUNT_HEADER;
	return PASS_UNCLAIMED;
}

/* What is left to be judged of a packet from a VTEP. */
static __always_inline enum verdict vxlan_judge(hook_ctx *ctx, void *at, const struct vxlan_outer *outer, bool tagged)
{
	__be16 *udp = at + OUTER_SIZE;
	if (udp[3] ? !vxlan_checksum_right(ctx, at, hook_data_end(ctx), outer->length) : !PYDP_VXLAN_ZERO_CHECKSUM)
		return PUNT_CHECKSUM;
	if (outer_marked(outer->tos))
		return PUNT_ECN;
	/* Cut up later, by the protocol that the stack has for it, which would stay that of the outer packet. */
	return hook_is_gso(ctx) && tagged ? PUNT_TAGGED : PASS_UNCLAIMED;
}

/* The segment that a frame from the VTEP at ADDRESS with VNI is of; one that nobody named is believed only where the kernel has taken the frame
 * out of its packet (WELCOME). */
static __always_inline bool vxlan_place(struct packet *packet, struct vxlan_frame *frame, const __be32 *address,
					__u32 vni, const bool welcome)
{
	__u32 index = 0;
	struct vxlan_vtep *vtep = vxlan_find(address, vni, &index);
	if (!vtep && welcome && PYDP_VXLAN_ANY_SOURCE)
		vtep = vxlan_welcome(address, vni, &index);
	if (!vtep)
		return false;
	packet->tunnel = index + 1;
	frame->vtep = vtep;
	frame->door = table_key(address, vni, PYDP_TUNNEL_IPV6);
	frame->segment = vtep->segment;
	frame->from = index | FDB_REMOTE;
	frame->learning = !!(vtep->flags & VTEP_LEARNING);
	return true;
}

/* The frame in a packet of the underlay. Gives PASS_UNCLAIMED where there is one; all else is for the stack, VTEPs' packets with a
 * reason, others with OURS false. */
static __always_inline enum verdict vxlan_from_underlay(hook_ctx *ctx, struct packet *packet, __u32 slot,
							struct vxlan_frame *frame, bool *ours)
{
	struct vxlan_outer outer = {};
	*ours = false;
	if (packet->ethertype != bpf_htons(PYDP_TUNNEL_IPV6 ? ETH_P_IPV6 : ETH_P_IP) || packet->tags)
		return PASS_UNCLAIMED;
	hook_pull(ctx, VXLAN_FIRST);
	void *at = hook_data(ctx) + ETH_HLEN, *end = hook_data_end(ctx);
	bool for_us = false;
	enum verdict verdict = vxlan_for_us(at, end, &outer, &for_us);
	if (!for_us)
		return verdict;
	__be16 *udp = at + OUTER_SIZE;
	if ((void *)(udp + 4) > end || udp[1] != bpf_htons(PYDP_VXLAN_PORT))
		return PASS_UNCLAIMED;
	struct vxlan_port *in = vxlan_ports.lookup(&slot);
	if (!in || packet->dest != in->mac)
		return PUNT_ADDRESS;
	if (at + VXLAN_ROOM > end)
		return PUNT_TRUNCATED;
	verdict = vxlan_check(at, packet, &outer);
	if (verdict != PASS_UNCLAIMED)
		return verdict;
	__be32 *vxlan = at + OUTER_SIZE + 8;
	__u32 vni = bpf_ntohl(vxlan[1]) >> 8;
	frame->dest = *(__u64 *)(vxlan + 2) & MAC_MASK;
	frame->source = *(__u64 *)((void *)(vxlan + 2) + ETH_ALEN) & MAC_MASK;
	frame->tagged = is_tag(*(__be16 *)((void *)(vxlan + 2) + 2 * ETH_ALEN));
	frame->length = packet->length - VXLAN_ROOM;
	if (!vxlan_place(packet, frame, outer.saddr, vni, false))
		return PUNT_VTEP;
	verdict = vxlan_judge(ctx, at, &outer, frame->tagged);
	*ours = verdict == PASS_UNCLAIMED;
	return verdict;
}

/* A frame that the kernel took out of its packet, with the sender in the metadata. */
static __always_inline enum verdict vxlan_from_companion(hook_ctx *ctx, struct packet *packet,
							 struct vxlan_frame *frame)
{
	struct bpf_tunnel_key key = {};
	__be32 address[4] = {};
	if (!hook_described(ctx, &key, PYDP_TUNNEL_IPV6 ? BPF_F_TUNINFO_IPV6 : 0))
		return DROP_VTEP;
	if (PYDP_TUNNEL_IPV6)
		__builtin_memcpy(address, key.remote_ipv6, 16);
	else
		address[0] = bpf_htonl(key.remote_ipv4);
	if (!vxlan_place(packet, frame, address, key.tunnel_id, true))
		return DROP_VTEP;
	frame->dest = packet->dest;
	frame->source = packet->source;
	frame->length = packet->length;
	return PASS_UNCLAIMED;
}

/* Take the outer headers off. */
static __always_inline bool vxlan_unwrap(hook_ctx *ctx, __be16 *ethertype)
{
	struct ethernet header;
	void *data = hook_data(ctx);
	if (data + VXLAN_FIRST > hook_data_end(ctx))
		return false;
	ethernet_read(&header, data + VXLAN_ROOM);
	*ethertype = header.ethertype;
	/* The stack's idea of the protocol stays that of the outer header, but for these. */
	__u64 flags = *ethertype == bpf_htons(ETH_P_IPV6) && !PYDP_TUNNEL_IPV6 ? HOOK_NOW_IPV6 :
		      *ethertype == bpf_htons(ETH_P_IP) && PYDP_TUNNEL_IPV6    ? HOOK_NOW_IPV4 :
										 0;
	if (!hook_close(ctx, VXLAN_ROOM, flags))
		return false;
	data = hook_data(ctx);
	if (data + ETH_HLEN > hook_data_end(ctx))
		return false;
	if (HOOK_HEADER_STAYS)
		ethernet_write(data, &header);
	return true;
}
