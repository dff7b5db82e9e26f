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
