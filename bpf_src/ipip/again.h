// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The short way, on XDP for IPv4 in IPv4: packets whose peer and next hop a packet has just gone the long way for, by what is kept of those
// (lib/recent.h). What it sends and counts is what the long way would; whatever is not as plain as can be takes that.
//
// Time goes with the instructions that are executed, and each way out of the long one sets all that is alive at its end. Hence few ways out
// here, taken before anything is written, and conditions gathered in two words: in one, what must be 0; in the other, what must not be negative.
// For the same reason it comes before the packet is parsed (Traits.short), and a CPU's records stand in one element of an array.

enum ipip_again {
	/* There is a short way. */
	IPIP_AGAIN = !HOOK_FLOODS && !PYDP_TUNNEL_IPV6 && !PYDP_IPIP_INNER6 && !PYDP_IPIP_GRE,
	/* Into the tunnel as well: a packet that is never cut up needs no number of its own (RFC 6864 4.1). */
	IPIP_AGAIN_IN = IPIP_AGAIN && PYDP_IPIP_FLAGS & TUNNEL_DF_SET,
};

/* An inner source that may come from this peer. */
struct ipip_source {
	__u64 key; /* its address, and the peer's in the upper half */
	__u64 stamp;
	__u32 index; /* of the peer */
	__u32 pad;
};

/* An inner destination, and how to get there. */
struct ipip_target {
	__u64 key; /* its address, and in the upper half the slot of the port that packets for it come in by */
	__u64 stamp;
	__u64 mac; /* of that port */
	__u64 first; /* Ethernet header towards the next hop, all of it */
	__u64 second; /* with what follows, as far as it is always the same */
	__u32 egress; /* ifindex */
	__u32 longest; /* bytes of an inner packet that may go there */
	__u32 index; /* of the peer, if it is behind one */
	__be32 daddr; /* of the peer */
	__u32 sum; /* of the 16-bit words of the outer header, but for TOS, TTL and length */
	__u32 pad;
};

struct ipip_recent {
	struct ipip_source sources[RECENT_PLACES];
	struct ipip_target targets[RECENT_PLACES];
};

/* Written by the datapath. An element for each CPU. */
BPF_F_TABLE("array", __u32, struct ipip_recent, ipip_recents, 1, IN_LINES);

/* What this CPU keeps. */
static __always_inline struct ipip_recent *ipip_recent(void)
{
	__u32 cpu = bpf_get_smp_processor_id();
	return ipip_recents.lookup(&cpu);
}

/* With no check all sources of a peer are one. */
static __always_inline __u64 ipip_source_key(__be32 saddr, __be32 peer)
{
	return (PYDP_IPIP_SOURCE_CHECK ? saddr : 0) | (__u64)peer << 32;
}

/* Keep where packets of this port, or from this underlay, went. */
static __always_inline struct ipip_target *ipip_keep(const struct packet *packet, __u32 slot, __be32 daddr,
						     const struct hop *hop, __u32 longest, __u64 stamp)
{
	__u64 key = daddr | (__u64)slot << 32;
	struct ipip_recent *recent = ipip_recent();
	if (!recent)
		return 0;
	struct ipip_target *target = &recent->targets[recent_place(key)];
	target->key = key;
	target->mac = packet->dest;
	target->first = hop->header.first;
	target->second = hop->header.middle | (__u64)bpf_htons(ETH_P_IP) << 32;
	target->egress = hop->ifindex;
	target->longest = longest;
	target->stamp = stamp;
	return target;
}

/* Keep how a packet was put into one for this peer. */
static __always_inline void ipip_keep_peer(const struct packet *packet, __u32 slot, __be32 daddr, const struct hop *hop,
					   __u32 longest, const struct ipip_peer *peer, __u32 index, __u64 stamp)
{
	struct ipip_target *target = ipip_keep(packet, slot, daddr, hop, longest, stamp);
	if (!target)
		return;
	target->second |= 0x45ULL << 48;
	target->index = index;
	target->daddr = peer->address[0];
	target->sum = checksum_fold((__u64)PYDP_TUNNEL_LOCAL0 + peer->address[0]) + bpf_htons(0x4500) +
		      bpf_htons(IP_DONT_FRAGMENT) + bpf_htons(PYDP_IPIP_PROTOCOL);
}

/* Keep that packets from this inner source may come from the peer. */
static __always_inline void ipip_keep_source(__be32 saddr, __be32 peer, __u32 index, __u64 stamp)
{
	__u64 key = ipip_source_key(saddr, peer);
	struct ipip_recent *recent = ipip_recent();
	if (!recent)
		return;
	struct ipip_source *source = &recent->sources[recent_place(key)];
	source->key = key;
	source->index = index;
	source->stamp = stamp;
}

/* What of a record is other than of the one for this key and instant, and for the frame at DATA; 0 for nothing. */
static __always_inline __u64 ipip_differs(const struct ipip_target *target, const void *data, __u64 key, __u64 stamp)
{
	return (target->key ^ key) | (target->stamp ^ stamp) | (target->mac ^ *(__u64 *)data) << (64 - 8 * ETH_ALEN);
}

/* 0 for an address that inner_source_sane() has nothing against: not 0, 127, or 224 and more. */
static __always_inline __u64 ipip_insane(__be32 saddr)
{
	__s64 first = saddr & 0xff;
	return (__u64)((first - 1) | ((first ^ 127) - 1) | (223 - first)) >> 63;
}

/* A packet from a port for a peer. PASS_UNCLAIMED: the long way, if nothing was done yet. */
static __always_inline enum verdict ipip_encap_again(hook_ctx *ctx, struct packet *packet, __u32 slot, __u64 stamp)
{
	void *data = hook_data(ctx);
	const __be32 *ip = data + ETH_HLEN;
	struct ipip_recent *recent = ipip_recent();
	if (!recent || (void *)(ip + 5) > hook_data_end(ctx))
		return PASS_UNCLAIMED;
	__u64 key = ip[4] | (__u64)slot << 32;
	struct ipip_target *target = &recent->targets[recent_place(key)];
	RECENT_AT(target);
	__u64 differs = plain_frame(data) | plain_checksum(ip) | ipip_insane(ip[3]) |
			ipip_differs(target, data, key, stamp);
	PLAIN_SO_FAR(differs);
	__s64 length = bpf_ntohs(*(__be16 *)(data + ETH_HLEN + 2)), word = ip[2];
	__u64 tos = *(__u8 *)(data + ETH_HLEN + 1);
	packet->length = hook_length(ctx);
	__s64 spare = (length - 20) | ((__s64)packet->length - ETH_HLEN - length) | ((__s64)target->longest - length) |
		      ((word & 0xff) - 2);
	if (differs | (__u64)spare >> 63)
		return PASS_UNCLAIMED;
	struct inner inner = { .tos = tos, .ttl = word - 1 };
	__u64 ttl = outer_ttl(PYDP_IPIP_FLAGS, PYDP_IPIP_TTL, PYDP_TUNNEL_TTL, &inner);
	__u64 size = bpf_htons(length + IPIP_ROOM), peer = target->daddr;
	tos = outer_tos(PYDP_IPIP_FLAGS, PYDP_IPIP_TOS, &inner);
	__u64 check = plain_check(target->sum + (tos << 8) + ttl + size);
	__u32 index = target->index;
	if (!hook_open(ctx, IPIP_ROOM, 0))
		return PUNT_ERROR;
	data = hook_data(ctx);
	__u64 *at = data;
	if (data + ETH_HLEN + 2 * OUTER_SIZE > hook_data_end(ctx))
		return PUNT_ERROR;
	at[0] = target->first;
	at[1] = target->second | tos << 56;
	at[2] = size | (__u64)bpf_htons(IP_DONT_FRAGMENT) << 32 | ttl << 48 | (__u64)PYDP_IPIP_PROTOCOL << 56;
	at[3] = check | (__u64)PYDP_TUNNEL_LOCAL0 << 16 | peer << 48;
	*(__u16 *)(at + 4) = peer >> 16;
	*(__be32 *)(data + ETH_HLEN + OUTER_SIZE + 8) = inner_aged(word);
	packet->egress = target->egress;
	struct tunnel_count *count = PYDP_COUNTERS ? ipip_counts.lookup(&index) : 0;
	if (count) {
		count->sent_packets++;
		count->sent_bytes += length;
	}
	return FORWARD_ENCAP;
}

/* A packet from a peer for a port, and no byte more. PASS_UNCLAIMED: the long way. */
static __always_inline enum verdict ipip_decap_again(hook_ctx *ctx, struct packet *packet, __u32 slot, __u64 stamp)
{
	void *data = hook_data(ctx);
	const __be32 *outer = data + ETH_HLEN, *inner = data + ETH_HLEN + OUTER_SIZE;
	struct ipip_recent *recent = ipip_recent();
	if (!recent || (void *)(inner + 5) > hook_data_end(ctx))
		return PASS_UNCLAIMED;
	packet->length = hook_length(ctx);
	__u64 length = (__u64)packet->length - ETH_HLEN - OUTER_SIZE;
	__u64 differs = plain_outer(data, length + OUTER_SIZE, PYDP_TUNNEL_LOCAL0, PYDP_IPIP_PROTOCOL);
	PLAIN_SO_FAR(differs);
	differs |= plain_checksum(inner) | plain_inner(inner, length);
	PLAIN_SO_FAR(differs);
	__u64 key = inner[4] | (__u64)slot << 32, from = ipip_source_key(inner[3], outer[3]);
	struct ipip_source *source = &recent->sources[recent_place(from)];
	struct ipip_target *target = &recent->targets[recent_place(key)];
	RECENT_AT(source);
	RECENT_AT(target);
	differs |= (source->key ^ from) | (source->stamp ^ stamp) | ipip_differs(target, data, key, stamp);
	if (!PYDP_IPIP_SOURCE_CHECK)
		differs |= ipip_insane(inner[3]);
	PLAIN_SO_FAR(differs);
	__u32 index = source->index;
	__s64 word = inner[2];
	__u16 first = *(__be16 *)inner;
	__s64 spare = ((__s64)target->longest - (__s64)length) | ((word & 0xff) - 2);
	if (differs | (__u64)spare >> 63)
		return PASS_UNCLAIMED;
	if (!hook_close(ctx, IPIP_ROOM, 0))
		return PUNT_ERROR;
	data = hook_data(ctx);
	__u64 *at = data;
	if (data + ETH_HLEN + 20 > hook_data_end(ctx))
		return PUNT_ERROR;
	at[0] = target->first;
	at[1] = target->second | (__u64)first << 48;
	*(__be32 *)(data + ETH_HLEN + 8) = inner_aged(word);
	packet->egress = target->egress;
	struct tunnel_count *count = PYDP_COUNTERS ? ipip_counts.lookup(&index) : 0;
	if (count) {
		count->received_packets++;
		count->received_bytes += length;
	}
	return FORWARD_DECAP;
}
