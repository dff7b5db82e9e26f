// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The bare XDP hook: what a program that decides nothing reaches, the limit of all that decide something.

#include <uapi/linux/bpf.h>

#include "abi.h"

/* Written by Python. Index 0: the device of limit_devmap(). */
BPF_DEVMAP(limit_device, 1);

/* Out of the device that was written into the code. */
int limit_redirect(struct xdp_md *ctx)
{
	return bpf_redirect(CONSTANT(0), 0);
}

/* The same by way of a device map, which spares looking the device up by its number. */
int limit_devmap(struct xdp_md *ctx)
{
	return limit_device.redirect_map(0, 0);
}

enum limit_tunnel {
	LIMIT_VXLAN = 50, /* bytes that VXLAN over IPv4 adds */
	LIMIT_IPIP = 20, /* bytes that IPIP adds, behind the Ethernet header */
};

/* Out of that device with as many bytes in front as SIZE says, which decide nothing: the limit of all that encapsulate. */
static __always_inline int limit_grow(struct xdp_md *ctx, const int size)
{
	if (bpf_xdp_adjust_head(ctx, -size))
		return XDP_ABORTED;
	__u64 *data = (void *)(long)ctx->data;
	if ((void *)data + LIMIT_VXLAN > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < size / 8; i++)
		data[i] = 0x4500;
	return bpf_redirect(CONSTANT(0), 0);
}

int limit_vxlan_in(struct xdp_md *ctx)
{
	return limit_grow(ctx, LIMIT_VXLAN);
}

int limit_ipip_in(struct xdp_md *ctx)
{
	return limit_grow(ctx, LIMIT_IPIP);
}

/* Out of that device without the first bytes. */
int limit_vxlan_out(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, LIMIT_VXLAN) ? XDP_ABORTED : bpf_redirect(CONSTANT(0), 0);
}

int limit_ipip_out(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, LIMIT_IPIP) ? XDP_ABORTED : bpf_redirect(CONSTANT(0), 0);
}
