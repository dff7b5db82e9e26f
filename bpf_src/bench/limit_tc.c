// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The bare tc hook, as limit_xdp.c for XDP.

#include <uapi/linux/bpf.h>
#include <uapi/linux/pkt_cls.h>

#include "abi.h"

/* Out of the device that was written into the code. */
int limit_redirect(struct __sk_buff *ctx)
{
	return bpf_redirect(CONSTANT(0), 0);
}

/* To that device's peer at once, past its queue. The kernel drops what a peer in the same namespace would get. */
int limit_peer(struct __sk_buff *ctx)
{
	return bpf_redirect_peer(CONSTANT(0), 0);
}

enum limit_tunnel {
	LIMIT_VXLAN = 50, /* bytes that VXLAN over IPv4 adds */
};

/* Out of that device with the bytes of VXLAN behind the Ethernet header, and told to cut up frames as VXLAN asks: the limit of all that
 * encapsulate. They decide nothing, but who cuts a frame up looks in them for IPv4, UDP and, before the frame's own packet, its Ethertype.
 * What is not IP goes as it is: the kernel opens no other frame. */
int limit_vxlan_in(struct __sk_buff *ctx)
{
	const __u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
			    BPF_F_ADJ_ROOM_ENCAP_L2(14) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	if (!bpf_skb_adjust_room(ctx, LIMIT_VXLAN, BPF_ADJ_ROOM_MAC, flags)) {
		__u16 *version = (void *)(long)ctx->data + 14;
		__u64 *room = (void *)(version + 1);
		if ((void *)(room + LIMIT_VXLAN / 8) > (void *)(long)ctx->data_end)
			return TC_ACT_SHOT;
		*version = 0x45;
#pragma unroll
		for (int i = 0; i < LIMIT_VXLAN / 8; i++)
			room[i] = 17ULL << 56; /* the first one ends with the protocol */
		version[24] = version[-1];
	}
	return bpf_redirect(CONSTANT(0), 0);
}

/* To that device's peer at once, without them. */
int limit_vxlan_out(struct __sk_buff *ctx)
{
	bpf_skb_adjust_room(ctx, -LIMIT_VXLAN, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
	return bpf_redirect_peer(CONSTANT(0), 0);
}
