// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Stage ipip: packets of one IP version for networks behind peers, in packets of the same or the other version or in GRE (RFC 2003, RFC 4213
// 3, RFC 2473, RFC 2784, RFC 2890).
//
// There is no tunnel device. The stack routes what is for a peer's networks out of the underlay, where the program on the way out
// encapsulates it, so that MTU, TTL and fragments before that are the stack's business; what comes in from a peer is taken out of its packet
// and goes up the stack as if it had come like that. What comes in by a port of the instance, and what is for one, takes the short way
// where it can. In the adopting form (PYDP_IPIP_ADOPTED) a tunnel device of the kernel has all that does not take it.

#include "lib/clock.h"
#include "lib/flow.h"
#include "lib/hop.h"
#include "lib/outer.h"
#include "lib/inner.h"
#include "lib/path.h"
#include "lib/plain.h"
#include "lib/recent.h"
#include "lib/solicit.h"
#include "lib/table.h"
#include "lib/too_big.h"
#include "lib/tunnel.h"

#include "ipip/maps.h"
#include "ipip/again.h"
#include "ipip/encap.h"
#include "ipip/decap.h"

static __always_inline enum verdict ipip_short(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	__u64 role = STAGE_CONSTANT(STAGE_IPIP, CONSTANT_ROLE), stamp = recent_instant();
	if (IPIP_AGAIN && role == ROLE_UNDERLAY)
		return ipip_decap_again(ctx, packet, slot, stamp);
	if (IPIP_AGAIN_IN && role == ROLE_PORT)
		return ipip_encap_again(ctx, packet, slot, stamp);
	return PASS_UNCLAIMED;
}

/* Count a packet that goes the long way for its peer, if it is not carried. */
static __always_inline enum verdict ipip_fate(const struct packet *packet, enum verdict verdict)
{
	if (verdict >= CLASS_PUNT && packet->tunnel)
		ipip_count_fate(packet->tunnel - 1, verdict);
	return verdict;
}

static __always_inline enum verdict ipip_stage(hook_ctx *ctx, struct packet *packet, __u32 slot)
{
	__u64 role = STAGE_CONSTANT(STAGE_IPIP, CONSTANT_ROLE), stamp = IPIP_AGAIN ? recent_instant() : 0;
	if (PYDP_IPIP_ADOPTED && packet_is_left(packet))
		return PUNT_COMPARE;
	if (PYDP_EGRESS)
		return HOOK_OPENS_IP ? ipip_fate(packet, ipip_leaving(ctx, packet)) : PASS_UNCLAIMED;
	enum verdict verdict = role == ROLE_UNDERLAY ? ipip_arriving(ctx, packet, slot, stamp) :
						       ipip_from_port(ctx, packet, slot, stamp);
	/* What is wrong with a packet, the kernel's device may know better. */
	return ipip_fate(packet, PYDP_IPIP_ADOPTED && verdict >= CLASS_DROP ? PUNT_ROUTE : verdict);
}
