// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The short way, on XDP over IPv4: frames whose sender and destination a frame has just gone the long way for, by what is kept of those (recent.h).
// What it sends and counts is what the long way would; whatever is not as plain as can be takes that.
//
// A program's time goes with the instructions it executes, and each way out of the long one sets all that is alive at its end. Hence few
// ways out here, taken before anything is written, and comparisons gathered in one word.

enum vxlan_again {
	VXLAN_AGAIN = !HOOK_FLOODS && !PYDP_TUNNEL_IPV6, /* there is a short way */
	/* What lets the outer header depend on more of the frame than its length, flow and congestion mark. */
	VXLAN_VARIES = TUNNEL_TTL_INHERIT | TUNNEL_TOS_INHERIT | TUNNEL_DF_INHERIT | TUNNEL_CHECKSUM,
};

/* A destination's key: for frames that go into the tunnel, or come OUT of it. */
static __always_inline __u64 vxlan_target(__u64 dest, __u32 segment, const bool out)
{
	return dest | (__u64)segment << 48 | (__u64)out << 63;
}

/* Keep that frames of this sender need nothing more. VTEP is null for a port. */
static __always_inline void vxlan_keep_sender(__u64 source, __u64 door, __u64 stamp, __u32 segment, __u32 index,
					      const struct vxlan_vtep *vtep)
{
	struct recent_sender *sender = recent_sender_place(source, door);
	if (!sender)
		return;
	struct tunnel_count *count = vtep && PYDP_COUNTERS ? vxlan_counts.lookup(&index) : 0;
	if (count) /* the short way does not look whose they are */
		tunnel_owned(count, vtep->owner);
	sender->address = source;
	sender->door = door;
	sender->segment = segment;
	sender->index = index;
	sender->stamp = stamp;
}

/* Keep where a frame for a port went that was taken out of its packet. */
static __always_inline void vxlan_keep_port(__u64 dest, __u32 segment, __u64 stamp, const struct vxlan_port *port)
{
	__u64 address = vxlan_target(dest, segment, true);
	struct recent_target *target = recent_target_place(address);
	if (!target)
		return;
	target->address = address;
	target->egress = port->ifindex;
	target->longest = port->max_length + VXLAN_ROOM;
	target->stamp = stamp;
}

/* Keep how a frame was put into its packet, which it now is: the headers of the next one differ in TOS (byte 15), length (16), id (18),
 * checksum (24), source port (34) and UDP length (38). */
static __always_inline void vxlan_keep_vtep(hook_ctx *ctx, const struct packet *packet, const struct vxlan_vtep *vtep,
					    const struct hop *hop, __u32 index, __u64 stamp)
{
	__u64 address = vxlan_target(packet->dest, vtep->segment, false);
	struct recent_target *target = recent_target_place(address);
	__u64 *words = hook_data(ctx);
	if (vtep->tunnel & VXLAN_VARIES || !target || (void *)(words + 7) > hook_data_end(ctx))
		return;
	target->address = address;
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
	target->words[6] = words[6];
	target->sum = checksum_fold((target->words[1] >> 48) + (target->words[2] >> 32) + (target->words[3] >> 32) +
				    (target->words[3] & 0xffffffff) + (target->words[4] & 0xffff));
	target->stamp = stamp;
}

/* A frame from a port for a VTEP. PASS_UNCLAIMED: the long way, if nothing was done yet. */
static __always_inline enum verdict vxlan_encap_again(hook_ctx *ctx, struct packet *packet, __u32 slot, __u64 stamp)
{
	struct recent_sender *sender = recent_sender(packet->source, slot, stamp);
	if (!sender || packet->tags)
		return PASS_UNCLAIMED;
	__u64 address = vxlan_target(packet->dest, sender->segment, false);
	struct recent_target *target = recent_target(address, stamp, packet->length);
	void *data = hook_data(ctx), *end = hook_data_end(ctx);
	if (!target || data + ETH_HLEN + 20 > end)
		return PASS_UNCLAIMED;
	__u32 hash = flow_hash_ip(data + ETH_HLEN, end, packet->ethertype), index = target->index;
	struct hop *hop = vxlan_hops.lookup(&index);
	if (!hash || !hop) /* no IP packet */
		return PASS_UNCLAIMED;
	__be16 first = *(__be16 *)(data + ETH_HLEN);
	struct inner inner = {
		.tos = packet->ethertype == bpf_htons(ETH_P_IP) ? bpf_ntohs(first) : bpf_ntohs(first) >> 4,
	};
	__u64 tos = (__u64)outer_tos(0, 0, &inner) << 8, id = bpf_htons(hop->id++);
	__u64 length = bpf_htons(packet->length + VXLAN_ROOM - ETH_HLEN), udp_length = bpf_htons(packet->length + 16);
	__u64 sport = bpf_htons(flow_source_port(hash, target->low, target->high));
	__u64 check = plain_check(target->sum + tos + length + id);
	if (!hook_open(ctx, VXLAN_ROOM, 0))
		return PUNT_ERROR;
	__u64 *words = hook_data(ctx);
	if ((void *)(words + 7) > hook_data_end(ctx))
		return PUNT_ERROR;
	words[0] = target->words[0];
	words[1] = target->words[1] | tos << 48;
	words[2] = target->words[2] | length | id << 16;
	words[3] = target->words[3] | check;
	words[4] = target->words[4] | sport << 16 | udp_length << 48;
	words[5] = target->words[5];
	*(__u16 *)(words + 6) = target->words[6];
	packet->egress = target->egress;
	struct tunnel_count *count = PYDP_COUNTERS ? vxlan_counts.lookup(&index) : 0;
	if (count) {
		count->sent_packets++;
		count->sent_bytes += packet->length;
	}
	return FORWARD_ENCAP;
}

/* What of the packet at DATA, which has VXLAN_FIRST bytes, is other than that of a plain one for this end of the tunnels; 0 for nothing. */
static __always_inline __u64 vxlan_not_plain(const void *data, const struct packet *packet, __u64 mac)
{
	const __be32 *ip = data + ETH_HLEN;
	__u32 length = packet->length - ETH_HLEN;
	return (packet->dest ^ mac) | plain_frame(data, true) | plain_length(ip, length) | plain_whole(ip, IP_UDP) |
	       plain_checksum(ip) | (ip[4] ^ PYDP_TUNNEL_LOCAL0) | ((ip[5] >> 16) ^ bpf_htons(PYDP_VXLAN_PORT)) |
	       (ip[6] ^ bpf_htons(length - OUTER_SIZE)) /* no UDP checksum */ | (ip[7] ^ bpf_htonl(VXLAN_FLAGS)) |
	       (ip[8] & bpf_htonl(0xff));
}

/* A packet from a VTEP with a frame for a port. PASS_UNCLAIMED: the long way. */
static __always_inline enum verdict vxlan_decap_again(hook_ctx *ctx, struct packet *packet, __u32 slot, __u64 stamp)
{
	void *data = hook_data(ctx);
	struct vxlan_port *in = vxlan_ports.lookup(&slot);
	if (!PYDP_VXLAN_ZERO_CHECKSUM || !in || data + VXLAN_FIRST > hook_data_end(ctx) ||
	    vxlan_not_plain(data, packet, in->mac))
		return PASS_UNCLAIMED;
	void *frame = data + VXLAN_ROOM;
	__u64 dest = *(__u64 *)frame & MAC_MASK, source = *(__u64 *)(frame + ETH_ALEN) & MAC_MASK;
	const __be32 *saddr = data + ETH_HLEN + 12;
	__u32 vni = bpf_ntohl(*(__be32 *)(frame - 4)) >> 8;
	struct recent_sender *sender = recent_sender(source, table_key(saddr, vni, false), stamp);
	if (!sender)
		return PASS_UNCLAIMED;
	__u64 address = vxlan_target(dest, sender->segment, true);
	struct recent_target *target = recent_target(address, stamp, packet->length);
	if (!target)
		return PASS_UNCLAIMED;
	__u32 index = sender->index;
	if (!hook_close(ctx, VXLAN_ROOM, 0))
		return PUNT_ERROR;
	packet->egress = target->egress;
	struct tunnel_count *count = PYDP_COUNTERS ? vxlan_counts.lookup(&index) : 0;
	if (count) {
		count->received_packets++;
		count->received_bytes += packet->length - VXLAN_ROOM;
	}
	return FORWARD_DECAP;
}
