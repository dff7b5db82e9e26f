// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Stage count: looks at every packet, counts it by kind, leaves it alone.

enum count_kind {
	COUNT_OTHER = 0, /* neither ARP nor IP */
	COUNT_ARP = 1, /* ARP */
	COUNT_TCP = 2, /* TCP */
	COUNT_UDP = 3, /* UDP */
	COUNT_SCTP = 4, /* SCTP */
	COUNT_ICMP = 5, /* ICMP and ICMPv6 */
	COUNT_IP_OTHER = 6, /* another protocol over IP */
	COUNT_FRAGMENT = 7, /* a part of a fragmented packet but the first */
	COUNT_KINDS = 8, /* how many kinds there are */
};

/* Written by the datapath. Index: slot * COUNT_KINDS + kind. */
BPF_TABLE("percpu_array", __u32, struct counter, count_kinds, COUNT_KINDS);

static __always_inline enum count_kind count_kind(const struct packet *packet)
{
	if (packet->ethertype == bpf_htons(ETH_P_ARP))
		return COUNT_ARP;
	if (packet->ethertype != bpf_htons(ETH_P_IP) && packet->ethertype != bpf_htons(ETH_P_IPV6))
		return COUNT_OTHER;
	if (packet->flags & PACKET_LATER_FRAGMENT)
		return COUNT_FRAGMENT;
	switch (packet->protocol) {
	case IP_TCP:
		return COUNT_TCP;
	case IP_UDP:
		return COUNT_UDP;
	case IP_SCTP:
		return COUNT_SCTP;
	case IP_ICMP:
	case IP_ICMPV6:
		return COUNT_ICMP;
	}
	return COUNT_IP_OTHER;
}

static __always_inline enum verdict count_stage(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	__u32 index = slot * COUNT_KINDS + count_kind(packet);
	struct counter *counter = count_kinds.lookup(&index);
	if (counter) {
		counter->packets++;
		counter->bytes += packet->length;
	}
	return PASS_UNCLAIMED;
}
