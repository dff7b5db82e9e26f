// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The bare connect hook of a cgroup: where a program of this host connects to is exchanged once, and no packet is translated after that.

#include <uapi/linux/bpf.h>

#include "abi.h"

/* Address and port that are asked for, and those that are meant instead, as the wire has them: the port above. In one network namespace alone, as the
 * cgroup has programs of all of them. */
#define LIMIT_NAMESPACE CONSTANT(0)
#define LIMIT_SERVICE	CONSTANT(1)
#define LIMIT_BACKEND	CONSTANT(2)

int limit_connect(struct bpf_sock_addr *ctx)
{
	if (bpf_get_netns_cookie(ctx) == LIMIT_NAMESPACE &&
	    (ctx->user_ip4 | (__u64)ctx->user_port << 32) == LIMIT_SERVICE) {
		ctx->user_ip4 = LIMIT_BACKEND;
		ctx->user_port = LIMIT_BACKEND >> 32;
	}
	return 1;
}
