// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The short way, over IPv4: frames whose sender and destination a frame has just gone the long way for, by what is kept of those (recent.h).
// What it sends and counts is what the long way would; whatever is not as plain as can be takes that.
//
// A program's time goes with the instructions it executes, and each way out of the long one sets all that is alive at its end. Hence few
// ways out here, taken before anything is written, and comparisons gathered in one word. For the same reason it comes before the packet is
// parsed (Traits.short), and a CPU's records stand in one element of an array.

enum vxlan_again {
	VXLAN_AGAIN = !PYDP_TUNNEL_IPV6, /* there is a short way */
	/* What lets the outer header depend on more of the frame than its length, flow and congestion mark. */
	VXLAN_VARIES = TUNNEL_TTL_INHERIT | TUNNEL_TOS_INHERIT | TUNNEL_DF_INHERIT | TUNNEL_CHECKSUM,
};

/* May the frame take it? On tc not with a tag beside it, and not if it is cut into pieces below. */
static __always_inline bool vxlan_is_whole(hook_ctx *ctx)
{
	return !hook_tagged(ctx) && !hook_is_gso(ctx);
}

/* As flow_hash(), of the IP packet at AT; 0 for what is none. */
static __always_inline __u32 vxlan_flow(hook_ctx *ctx, void *at, void *end, __be16 ethertype)
{
	__u32 hash = flow_hash_ip(at, end, ethertype), known = hook_hash(ctx);
	return hash && known ? known : hash;
}

/* Keep that frames of this sender need nothing more. VTEP is null for a port. */
static __always_inline void vxlan_keep_sender(__u64 source, __u64 door, __u64 stamp, __u32 index,
					      const struct vxlan_vtep *vtep)
{
	struct recents *here = recents_here();
	if (!here)
		return;
	struct tunnel_count *count = vtep && PYDP_COUNTERS ? vxlan_counts.lookup(&index) : 0;
	if (count) /* the short way does not look whose they are */
		tunnel_owned(count, vtep->owner);
	struct recent_sender *sender = recent_sender(here, source, door);
	sender->address = source;
	sender->door = door;
	sender->index = index;
	sender->stamp = stamp;
}

/* Keep where a frame for a port went that was taken out of a packet with this VNI, to the underlay's address MAC. */
static __always_inline void vxlan_keep_port(__u64 dest, __u32 vni, __u64 mac, __u64 stamp,
					    const struct vxlan_port *port)
{
	struct recents *here = recents_here();
	if (!here)
		return;
	struct recent_target *target = recent_target(here, dest, vni | RECENT_OUT);
	target->address = dest;
	target->where = vni | RECENT_OUT;
	target->mac = mac;
	target->egress = port->ifindex;
	target->longest = port->max_length + VXLAN_ROOM;
	target->peer = !!(port->flags & VXLAN_PEER);
	target->stamp = stamp;
}

/* Keep how a frame that came in by the port in SLOT was put into its packet, which it now is: the headers of the next one differ in TOS (byte 15),
 * length (16), id (18), checksum (24), source port (34) and UDP length (38). */
static __always_inline void vxlan_keep_vtep(hook_ctx *ctx, const struct packet *packet, __u32 slot,
					    const struct vxlan_vtep *vtep, const struct hop *hop, __u32 index,
					    __u64 stamp)
{
	struct recents *here = recents_here();
	__u64 *words = hook_data(ctx);
	if (vtep->tunnel & VXLAN_VARIES || !here || (void *)(words + 7) > hook_data_end(ctx))
		return;
	struct recent_target *target = recent_target(here, packet->dest, slot);
	target->address = packet->dest;
	target->where = slot;
	target->egress = hop->ifindex;
	target->longest = hop->mtu + ETH_HLEN - VXLAN_ROOM;
	target->index = index;
	target->low = vtep->low;
	target->high = vtep->high;
	target->words[0] = words[0];
	target->words[1] = words[1] & ~((__u64)ECN_MASK << 56);
	target->words[2] = words[2] & ~0xffffffffULL;
	target->words[3] = words[3] & ~0xffffULL;
	target->words[4] = words[4] & 0x0000ffff0000ffffULL;
	target->words[5] = words[5];
	target->last = words[6];
	target->sum = checksum_fold((target->words[1] >> 48) + (target->words[2] >> 32) + (target->words[3] >> 32) +
				    (target->words[3] & 0xffffffff) + (target->words[4] & 0xffff));
	target->stamp = stamp;
}

/* A frame from a port for a VTEP. PASS_UNCLAIMED: the long way, if nothing was done yet. */
static __always_inline enum verdict vxlan_encap_again(hook_ctx *ctx, struct packet *packet, __u32 slot, __u64 stamp)
{
	void *data = hook_data(ctx), *end = hook_data_end(ctx);
	struct recents *here = recents_here();
	if (!here || data + ETH_HLEN + 20 > end || !vxlan_is_whole(ctx))
		return PASS_UNCLAIMED;
	__u64 dest = *(__u64 *)data & MAC_MASK, from = *(__u64 *)(data + ETH_ALEN), source = from & MAC_MASK;
	struct recent_sender *sender = recent_sender(here, source, slot);
	struct recent_target *target = recent_target(here, dest, slot);
	__u64 differs = recent_differs(sender, source, slot, target, dest, slot, stamp);
	__u64 length = packet->length = hook_length(ctx);
	__be16 ethertype = from >> 48;
	__u32 hash = vxlan_flow(ctx, data + ETH_HLEN, end, ethertype), index = target->index;
	if (differs | (__u64)((__s64)target->longest - (__s64)length) >> 63 || !hash) /* no IP packet */
		return PASS_UNCLAIMED;
	__be16 first = *(__be16 *)(data + ETH_HLEN);
	struct inner inner = {
		.tos = ethertype == bpf_htons(ETH_P_IP) ? bpf_ntohs(first) : bpf_ntohs(first) >> 4,
	};
	__u64 tos = (__u64)outer_tos(0, 0, &inner) << 8, id = bpf_htons(here->id++);
	__u64 size = bpf_htons(length + VXLAN_ROOM - ETH_HLEN), udp_size = bpf_htons(length + 16);
	__u64 sport = bpf_htons(flow_source_port(hash, target->low, target->high));
	__u64 check = plain_check(target->sum + tos + size + id);
	struct ethernet header;
	ethernet_read(&header, data);
	if (!hook_open(ctx, VXLAN_ROOM, VXLAN_OPENS))
		return PUNT_ERROR;
	__u64 *words = hook_data(ctx);
	if ((void *)words + VXLAN_FIRST > hook_data_end(ctx))
		return PUNT_ERROR;
	words[0] = target->words[0];
	words[1] = target->words[1] | tos << 48;
	words[2] = target->words[2] | size | id << 16;
	words[3] = target->words[3] | check;
	words[4] = target->words[4] | sport << 16 | udp_size << 48;
	words[5] = target->words[5];
	*(__u16 *)(words + 6) = target->last;
	if (HOOK_HEADER_STAYS)
		ethernet_write((void *)words + VXLAN_ROOM, &header);
	packet->egress = target->egress;
	struct tunnel_count *count = PYDP_COUNTERS ? vxlan_counts.lookup(&index) : 0;
	if (count) {
		count->sent_packets++;
		count->sent_bytes += length;
	}
	return FORWARD_ENCAP;
}

/* A packet from a VTEP with a frame for a port. PASS_UNCLAIMED: the long way. */
static __always_inline enum verdict vxlan_decap_again(hook_ctx *ctx, struct packet *packet, __u32 slot, __u64 stamp)
{
	void *data = hook_data(ctx), *udp = data + ETH_HLEN + OUTER_SIZE, *frame = data + VXLAN_ROOM;
	struct recents *here = recents_here();
	if (!PYDP_VXLAN_ZERO_CHECKSUM || !here || data + VXLAN_FIRST > hook_data_end(ctx) || !vxlan_is_whole(ctx))
		return PASS_UNCLAIMED;
	__u64 length = packet->length = hook_length(ctx), ports = *(__u64 *)udp >> 16, flags = *(__u64 *)(udp + 8);
	__u64 differs = plain_outer(data, length - ETH_HLEN, PYDP_TUNNEL_LOCAL0, IP_UDP);
	PLAIN_SO_FAR(differs);
	/* The port, the length, and no checksum; behind them the flags, and nothing behind the VNI. */
	differs |= ports ^ (bpf_htons(PYDP_VXLAN_PORT) | (__u32)bpf_htons(length - ETH_HLEN - OUTER_SIZE) << 16);
	differs |= (flags & 0xff000000ffffffffULL) ^ bpf_htonl(VXLAN_FLAGS);
	PLAIN_SO_FAR(differs);
	__u32 vni = bpf_ntohl(flags >> 32) >> 8;
	__u64 dest = *(__u64 *)frame & MAC_MASK, from = *(__u64 *)(frame + ETH_ALEN), source = from & MAC_MASK;
	if (HOOK_OPENS_IP) /* and it stays the protocol that it is for the stack */
		differs |= from >> 48 ^ bpf_htons(ETH_P_IP);
	__u64 door = table_key(data + ETH_HLEN + 12, vni, false);
	struct recent_sender *sender = recent_sender(here, source, door);
	struct recent_target *target = recent_target(here, dest, vni | RECENT_OUT);
	differs |= recent_differs(sender, source, door, target, dest, vni | RECENT_OUT, stamp) |
		   (target->mac ^ *(__u64 *)data) << (64 - 8 * ETH_ALEN);
	if (differs | (__u64)((__s64)target->longest - (__s64)length) >> 63)
		return PASS_UNCLAIMED;
	__u32 index = sender->index;
	struct ethernet header;
	ethernet_read(&header, frame);
	if (!hook_close(ctx, VXLAN_ROOM, 0))
		return PUNT_ERROR;
	data = hook_data(ctx);
	if (HOOK_HEADER_STAYS) {
		if (data + ETH_HLEN > hook_data_end(ctx))
			return PUNT_ERROR;
		ethernet_write(data, &header);
	}
	packet->egress = target->egress;
	packet->peer = target->peer;
	struct tunnel_count *count = PYDP_COUNTERS ? vxlan_counts.lookup(&index) : 0;
	if (count) {
		count->received_packets++;
		count->received_bytes += length - VXLAN_ROOM;
	}
	return FORWARD_DECAP;
}
