// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Questions for a neighbour's MAC address that somebody here can answer, so that they need not go to everybody (RFC 826, RFC 4861 7.2).

#include "lib/solicit.h"

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 lengths[2];
	__be16 operation;
	__u8 addresses[20]; /* MAC and IPv4 address of who sends, then of who is meant */
};

enum arp_layout {
	ARP_SIZE = 28,
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
};

/* Whose MAC address is asked for: the ADDRESS, IPv4 in the first word. False for what is no such question, and for those that are none: a host
 * that tells its own address, or looks whether another one has it. */
static __always_inline bool neighbour_asked(hook_ctx *ctx, const struct packet *packet, __be32 *address)
{
	void *at = hook_data(ctx) + ETH_HLEN, *end = hook_data_end(ctx);
	if (packet->network != ETH_HLEN)
		return false;
	if (packet->ethertype == bpf_htons(ETH_P_ARP) && at + ARP_SIZE <= end) {
		struct arp *arp = at;
		__be32 sender = *(__be32 *)(arp->addresses + 6);
		address[0] = *(__be32 *)(arp->addresses + 16);
		return arp->hardware == bpf_htons(1) && arp->protocol == bpf_htons(ETH_P_IP) && arp->lengths[0] == 6 &&
		       arp->lengths[1] == 4 && arp->operation == bpf_htons(ARP_REQUEST) && sender &&
		       sender != address[0];
	}
	if (packet->ethertype == bpf_htons(ETH_P_IPV6) && at + 40 + SOLICIT_SIZE <= end) {
		__u8 *byte = at;
		__be32 *words = at;
		__builtin_memcpy(address, at + 48, 16);
		return byte[6] == IP_ICMPV6 && byte[7] == 255 && byte[40] == 135 && byte[64] == 1 &&
		       bpf_ntohs(*(__be16 *)(at + 4)) == SOLICIT_SIZE && words[2] | words[3] | words[4] | words[5];
	}
	return false;
}

/* Turn the question into the answer MAC. */
static __always_inline bool neighbour_answer(hook_ctx *ctx, const struct packet *packet, __u64 mac)
{
	if (packet->ethertype == bpf_htons(ETH_P_IPV6))
		return solicit_answer(ctx, mac);
	void *data = hook_data(ctx);
	struct arp *arp = data + ETH_HLEN;
	if ((void *)arp + ARP_SIZE > hook_data_end(ctx))
		return false;
	struct ethernet header = { .first = packet->source | mac << 48,
				   .middle = mac >> 16,
				   .ethertype = packet->ethertype };
	ethernet_write(data, &header);
	arp->operation = bpf_htons(ARP_REPLY);
	__be32 asker = *(__be32 *)(arp->addresses + 6), asked = *(__be32 *)(arp->addresses + 16);
	__builtin_memcpy(arp->addresses + 10, arp->addresses, ETH_ALEN);
	*(__be32 *)(arp->addresses + 16) = asker;
	*(__be16 *)arp->addresses = mac;
	*(__be32 *)(arp->addresses + 2) = mac >> 16;
	*(__be32 *)(arp->addresses + 6) = asked;
	return true;
}
