// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The short way of packets whose flow was just seen, on XDP: plain IPv4, TCP in the middle of a connection or UDP with a checksum.
//
// Each CPU keeps what the long way found out: what such packets leave as, the differences to their checksums, the next hop. A record is good for
// 16 jiffies, so that the flow's life, its backend and the next hop are seen to that often, and made by the long way alone. It is a line of the
// cache; tags, which the caches keep, say which of two it could be: for a flow that has none, as one that begins, no line is brought from memory.
// All of a CPU's are one element of an array: of a per-CPU array each stands by itself, and is found through a pointer. What is compared is
// gathered before the one branch: each way out costs clang some ten stores before it.

enum nat_short_limit {
	NAT_SHORT_PLACES = 4096, /* pairs of records of a CPU, a power of two */
	NAT_SHORT_READ = ETH_HLEN + 20 + 18, /* bytes of a frame that are looked at: to the end of a TCP checksum */
	NAT_SHORT_AGE = 0xfffe, /* what one less does to the word that TTL and protocol are in */
	NAT_SHORT_SHIFT = 4, /* jiffies to instants: 16 ms with HZ 1000, 64 ms with HZ 250, 160 ms with HZ 100 */
	NAT_SHORT_KEY = 48, /* bits of `rest` that are the packet's */
	NAT_SHORT_MAC = 48, /* bits of `mac` that are the address */
};

#define NAT_SHORT_REPLY (1u << 31) /* in `backend`: the packets are its answers */

struct nat_recent {
	__u64 addresses; /* source, then destination */
	__u64 rest; /* ports, protocol, slot; above what the checksum of TCP or UDP changes by */
	__u64 mac; /* that it comes in for; above how many bytes of a frame may leave there */
	__u64 to_addresses;
	__u64 header; /* towards the next hop: as struct ethernet */
	__u32 header_middle;
	__u32 to_ports;
	__u32 egress; /* ifindex */
	__u32 backend; /* as in the flow */
	__u32 generation;
	__u32 stamp; /* the instant that it is good for; 0 for none */
};

/* Two flows have room at each place. Were it one, a fifth of 1000 flows would drive another out each time. */
struct nat_recents {
	__u16 tags[4096]; /* of each pair: of the first below, of the second above, 8 bits of their hashes, 0 for none */
	struct nat_recent one[8192]; /* the pairs */
};

/* Written by the datapath. An element for each CPU. */
BPF_F_TABLE("array", __u32, struct nat_recents, nat_recents, 1, IN_LINES);

/* This instant; never 0. */
static __always_inline __u32 nat_instant(void)
{
	return (__u32)(bpf_jiffies64() >> NAT_SHORT_SHIFT) + 1;
}

/* Where a packet's record would be. */
struct nat_sought {
	struct nat_recents *recents; /* of this CPU, or 0 */
	__u32 place;
	__u32 tag;
};

static __always_inline struct nat_sought nat_sought(__u64 addresses, __u64 rest)
{
	__u64 hash = (addresses * 0x9e3779b97f4a7c15ULL) ^ (rest * 0xd6e8feb86659fd93ULL);
	__u32 cpu = bpf_get_smp_processor_id();
	return (struct nat_sought){ .recents = nat_recents.lookup(&cpu),
				    .place = (hash >> 40 ^ hash >> 20) & (NAT_SHORT_PLACES - 1),
				    .tag = hash >> 56 | 1 };
}

/* What the tags of its place are other than its own: 0 in the lower byte for the first record, in the next one for the second. */
static __always_inline __u32 nat_sought_differs(const struct nat_sought *sought)
{
	return sought->recents->tags[sought->place] ^ (sought->tag | sought->tag << 8);
}

static __always_inline struct nat_recent *nat_sought_recent(const struct nat_sought *sought, bool second)
{
	__u32 place = 2 * sought->place + second;
	asm volatile("" : "+r"(place)); /* or clang has an "or" there: see checksum_at() */
	return &sought->recents->one[place & (2 * NAT_SHORT_PLACES - 1)];
}

/* What of a record is other than of one for packets with these addresses and this rest; 0 for nothing. */
static __always_inline __u64 nat_recent_differs(const struct nat_recent *recent, __u64 addresses, __u64 rest)
{
	return (recent->addresses ^ addresses) | (recent->rest ^ rest) << (64 - NAT_SHORT_KEY);
}

static __always_inline __u64 nat_recent_rest(__u32 ports, __u8 protocol, __u32 slot)
{
	return ports | (__u64)protocol << 32 | (__u64)slot << 40;
}

/* What a sum of 16-bit words changes by when these words do. */
static __always_inline __u32 nat_change(__u64 from, __u64 to)
{
	return checksum_fold((__u64)(__u32)~from + (__u32) ~(from >> 32) + (__u32)to + (to >> 32));
}

/* Keep what the long way found out about a packet of FLOW that it sent out directly. From a packet that ends its side of a connection on that side
 * goes the long way, which follows the states. */
static __always_inline void nat_keep(struct nat_scratch *s, const struct packet *packet, const struct nat_found *found,
				     __u32 slot)
{
	const struct tuple_view *view = &s->view;
	const struct nat_flow *flow = found->flow;
	const struct nat_tuple *from = &view->tuple, *to = &s->to;
	bool steady = view->protocol == IP_TCP ? flow->state == NAT_STATE_ESTABLISHED : view->protocol == IP_UDP;
	if (PYDP_NAT_ACCOUNTING || view->version != 4)
		return;
	__u64 addresses = from->saddr[0] | (__u64)from->daddr[0] << 32,
	      given = to->saddr[0] | (__u64)to->daddr[0] << 32;
	__u32 ports = tuple_ports(from), given_ports = tuple_ports(to);
	__u64 rest = nat_recent_rest(ports, view->protocol, slot);
	struct nat_sought sought = nat_sought(addresses, rest);
	if (!sought.recents)
		return;
	/* Its own record, or one that is not in use, or the second. */
	__u32 differs = nat_sought_differs(&sought);
	bool second = (__u8)differs && (!(differs >> 8) || nat_sought_recent(&sought, false)->stamp == nat_instant());
	struct nat_recent *recent = nat_sought_recent(&sought, second);
	if (!(__u8)differs || !(differs >> 8))
		recent->stamp = 0;
	if (s->task.exit != NAT_EXIT_DIRECT || !steady || view->first || view->transport - view->network != 20 ||
	    view->network != ETH_HLEN)
		return;
	__u32 change = nat_change(addresses, given);
	__u64 transport = checksum_fold((__u64)change + (__u32)~ports + given_ports);
	__u64 longest = s->task.longest < 0xffff ? s->task.longest : 0xffff;
	recent->addresses = addresses;
	recent->rest = rest | transport << NAT_SHORT_KEY;
	recent->mac = packet->dest | longest << NAT_SHORT_MAC;
	recent->to_addresses = given;
	recent->header = s->task.header.first;
	recent->header_middle = s->task.header.middle;
	recent->to_ports = given_ports;
	recent->egress = s->task.device;
	recent->backend = flow->backend | (found->way ? NAT_SHORT_REPLY : 0);
	recent->generation = flow->generation;
	recent->stamp = nat_instant();
	__u16 *tags = &sought.recents->tags[sought.place];
	*tags = second ? (*tags & 0xff) | sought.tag << 8 : (*tags & 0xff00) | sought.tag;
}

/* Count a packet of LENGTH bytes for the backend that RECENT is about. False if that is drained or gone, or the counter was another's. */
static __always_inline bool nat_recent_count(const struct nat_recent *recent, __u32 length)
{
	__u32 backend = recent->backend & ~NAT_SHORT_REPLY, number = backend - 1;
	if (!backend)
		return true;
	struct nat_count *count = nat_count_of(number);
	struct nat_backend *now = nat_backends.lookup(&number);
	if (!count || !now || !nat_backend_takes(now) ||
	    (count->owner ^ recent->generation) | (now->generation ^ recent->generation))
		return false;
	if (recent->backend & NAT_SHORT_REPLY) {
		count->received_packets++;
		count->received_bytes += length;
	} else {
		count->sent_packets++;
		count->sent_bytes += length;
	}
	return true;
}

/* Translate and send on a packet whose flow this CPU has just seen. PASS_UNCLAIMED: the long way is to have it, untouched. */
static __always_inline enum verdict nat_short(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	void *data = hook_data(ctx), *ip = data + ETH_HLEN;
	if (data + NAT_SHORT_READ > hook_data_end(ctx))
		return PASS_UNCLAIMED;
	__u32 first = *(__u32 *)ip, third = *(__u32 *)(ip + 8), ports = *(__u32 *)(ip + 20);
	__u64 addresses = *(__u32 *)(ip + 12) | (__u64) * (__u32 *)(ip + 16) << 32;
	__u8 protocol = third >> 8;
	const bool tcp = protocol == IP_TCP;
	__u16 *checks = ip + 20, check = tcp ? checks[8] : checks[3];
	__u64 flags = tcp ? *(__u8 *)(ip + 33) & (TCP_SYN | TCP_FIN | TCP_RST) : 0;
	__u64 rest = nat_recent_rest(ports, protocol, slot);
	struct nat_sought sought = nat_sought(addresses, rest);
	if (!sought.recents)
		return PASS_UNCLAIMED;
	__u32 other = nat_sought_differs(&sought);
	if ((__u8)other && other >> 8)
		return PASS_UNCLAIMED;
	struct nat_recent *recent = nat_sought_recent(&sought, (__u8)other);
	__u64 differs = nat_recent_differs(recent, addresses, rest) |
			(recent->mac ^ *(__u64 *)data) << (64 - NAT_SHORT_MAC) | (recent->stamp ^ nat_instant());
	differs |= plain_frame(data) | (*(__be16 *)(ip + 6) & bpf_htons(0x3fff)) | flags;
	packet->length = hook_length(ctx);
	__s64 length = bpf_ntohs(first >> 16), whole = packet->length, longest = recent->mac >> NAT_SHORT_MAC;
	__s64 spare = (longest - whole) | (whole - ETH_HLEN - length) | (length - 28) | ((__s64)(third & 0xff) - 2) |
		      (tcp ? 0 : (__s64)check - 1); /* UDP without a checksum */
	if (differs | (__u64)spare >> 63 || !nat_recent_count(recent, whole))
		return PASS_UNCLAIMED;
	__u64 given = recent->to_addresses;
	__u32 old = third >> 16, network = nat_change(addresses, given) + NAT_SHORT_AGE;
	__u16 sum = ~checksum_fold((__u64)(__u16)~old + network);
	__u16 fixed = ~checksum_fold((recent->rest >> NAT_SHORT_KEY) + (__u16)~check);
	fixed = fixed || tcp ? fixed : 0xffff;
	*(__u64 *)data = recent->header;
	*(__u64 *)(data + 8) = recent->header_middle | (__u64)bpf_htons(ETH_P_IP) << 32 | (__u64)first << 48;
	*(__u64 *)(ip + 8) = ((third - 1) & 0xffff) | (__u32)sum << 16 | given << 32;
	*(__u64 *)(ip + 16) = given >> 32 | (__u64)recent->to_ports << 32;
	if (tcp)
		checks[8] = fixed;
	else
		checks[3] = fixed;
	packet->egress = recent->egress;
	return FORWARD_NAT;
}
