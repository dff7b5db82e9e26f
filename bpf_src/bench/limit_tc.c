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
