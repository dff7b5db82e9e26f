// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The border of a child. The kernel's devices have their parent's MAC address; a container behind a veth has one of its own, which is
// exchanged for the parent's where frames come from it, and back where they go to it, also in what ARP and neighbour discovery say.

enum border_limit {
	BORDER_OPTIONS = 6, /* options of a neighbour discovery message that are looked at */
	BORDER_MASK = 0x1ff, /* its options are within so many bytes */
	BORDER_PULL = 256, /* bytes of it that are made readable */
};

static __always_inline __u64 border_mac(const void *at)
{
	return *(__u32 *)at | (__u64) * (__u16 *)(at + 4) << 32;
}

static __always_inline void border_write(void *at, __u64 mac)
{
	*(__u32 *)at = mac;
	*(__u16 *)(at + 4) = mac >> 32;
}

/* What the sum of a packet changes by when one of its addresses goes from OLD to NEW: six bytes at an even place. */
static __always_inline __u64 border_change(__u64 old, __u64 new)
{
	return (__u64)(__u32)~old + (__u16) ~(old >> 32) + (__u32) new + (__u16)(new >> 32);
}

/* Exchange a MAC address in an ARP packet, the sender's or the target's at OFFSET, if it is FROM. */
static __always_inline void border_arp(hook_ctx *ctx, const struct packet *packet, const __u32 offset, __u64 from,
				       __u64 to)
{
	void *at = hook_data(ctx) + packet->network;
	struct arp *arp = at;
	if (at + ARP_SIZE > hook_data_end(ctx) || arp->hardware != bpf_htons(1) || arp->lengths[0] != ETH_ALEN)
		return;
	if (border_mac(arp->addresses + offset) != from)
		return;
	border_write(arp->addresses + offset, to);
	hook_fix_frame(ctx, border_change(from, to));
}

/* Bytes of a neighbour discovery message in front of its options (RFC 4861 4), 0 for what is none. */
static __always_inline __u32 border_fixed(__u8 type)
{
	switch (type) {
	case 133: /* router solicitation */
		return 8;
	case 134: /* router advertisement */
		return 16;
	case 135: /* neighbour solicitation */
	case 136: /* neighbour advertisement */
		return 24;
	case 137: /* redirect */
		return 40;
	}
	return 0;
}

/* Exchange FROM for TO in the link-layer address options of a neighbour discovery message. */
static __always_inline bool border_discovery(hook_ctx *ctx, const struct packet *packet, __u64 from, __u64 to)
{
	hook_pull(ctx, BORDER_PULL);
	void *ip = hook_data(ctx) + packet->network, *end = hook_data_end(ctx);
	__u8 *byte = ip;
	if (ip + 44 > end || byte[6] != IP_ICMPV6 || byte[7] != 255)
		return true;
	__u32 fixed = border_fixed(byte[40]), offset = 40 + fixed;
	__u64 sum = 0;
	if (!fixed)
		return true;
#pragma unroll
	for (int i = 0; i < BORDER_OPTIONS; i++) {
		__u8 *option = ip + (offset & BORDER_MASK);
		if (offset > BORDER_MASK || (void *)option + 8 > end || !option[1])
			break;
		/* Source or target link-layer address (RFC 4861 4.6.1) */
		if ((option[0] == 1 || option[0] == 2) && option[1] == 1 && border_mac(option + 2) == from) {
			border_write(option + 2, to);
			sum += border_change(from, to);
		}
		offset += option[1] * 8;
	}
	return !sum || hook_fix_transport(ctx, packet->network + 42, 0, sum, false);
}

/* A frame that came from a child with the address CHILD: as from a device with the parent's. False if a helper failed. */
static __always_inline bool border_leave(hook_ctx *ctx, const struct packet *packet, __u64 child, __u64 parent)
{
	void *data = hook_data(ctx);
	if (data + ETH_HLEN > hook_data_end(ctx))
		return false;
	border_write(data + ETH_ALEN, parent);
	if (packet->ethertype == bpf_htons(ETH_P_ARP))
		border_arp(ctx, packet, 0, child, parent);
	return packet->ethertype != bpf_htons(ETH_P_IPV6) || border_discovery(ctx, packet, child, parent);
}

/* A frame to a child with the address CHILD. One that is not for the parent's address stays so: it is for the eyes of those who look at all. */
static __always_inline bool border_enter(hook_ctx *ctx, const struct packet *packet, __u64 child, __u64 parent)
{
	void *data = hook_data(ctx);
	if (packet->dest != parent)
		return true;
	if (data + ETH_HLEN > hook_data_end(ctx))
		return false;
	border_write(data, child);
	if (packet->ethertype == bpf_htons(ETH_P_ARP))
		border_arp(ctx, packet, 10, parent, child);
	return true;
}
