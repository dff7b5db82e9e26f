// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Records of senders and destinations (lib/recent.h). Besides their instant, they are good until somebody calls recent_forget(), on whichever
// CPU: what changes of a sudden is known at once.

#include "lib/lines.h"
#include "lib/recent.h"

/* A sender of which nothing is left to be learned, and whose packets are let in. */
struct recent_sender {
	__u64 address;
	__u64 door; /* where its packets come in: slot of a port, or key of a VTEP (struct table_bucket) */
	__u64 stamp;
	__u32 index; /* of the VTEP */
	__u32 pad;
};

/* A destination, and how to get there. */
struct recent_target {
	__u64 address;
	__u64 where; /* it is looked for: slot of the port that a frame comes in by, or VNI with RECENT_OUT */
	__u64 stamp;
	__u64 mac; /* of the underlay, for frames that come out of the tunnel */
	__u32 egress; /* ifindex */
	__u32 longest; /* bytes of a packet as it comes in that may go there */
	__u32 index; /* of the VTEP; the rest is for it, too */
	__u16 low; /* source ports: from here */
	__u16 high; /* up to here, not included */
	__u64 words[6]; /* outer headers, with 0 for what differs between packets */
	__u16 last; /* their end */
	__u16 peer; /* of what comes out of the tunnel: a veth whose peer may be handed it at once */
	__u32 sum; /* of the outer IPv4 header as it stands there: 16 bits */
};

struct recents {
	__u64 id; /* of the next outer IPv4 header, in the lowest 16 bits; 0 before there was any */
	struct recent_sender senders[RECENT_PLACES];
	struct recent_target targets[RECENT_PLACES];
};

/* Written by the datapath: how often all had to be forgotten, in units of RECENT_CHANGE. */
BPF_TABLE("array", __u32, __u64, recent_changes, 1);
/* Written by the datapath. An element for each CPU. */
BPF_F_TABLE("array", __u32, struct recents, recents, 1, IN_LINES);

#define RECENT_OUT    (1ULL << 32) /* beyond VNIs and slots */
#define RECENT_CHANGE (1ULL << 40) /* beyond what jiffies get to */

/* The stamp of this instant; never 0, which an empty record has. */
static __always_inline __u64 recent_stamp(void)
{
	__u32 zero = 0;
	volatile __u64 *changes = recent_changes.lookup(&zero);
	return recent_instant() + (changes ? *changes : 0);
}

/* Make every CPU's records void: to be called when what they were made from has changed. */
static __always_inline void recent_forget(void)
{
	__u32 zero = 0;
	__u64 *changes = recent_changes.lookup(&zero);
	if (changes)
		__sync_fetch_and_add(changes, RECENT_CHANGE);
}

/* What this CPU keeps. */
static __always_inline struct recents *recents_here(void)
{
	__u32 cpu = bpf_get_smp_processor_id();
	return recents.lookup(&cpu);
}

/* Numbers for the pieces of COUNT packets (RFC 791 3.2), the first of them. */
static __always_inline __u16 recent_id(struct recents *here, __u32 count)
{
	if (!here->id) /* CPUs that count alike would give pieces of two packets one number */
		here->id = bpf_get_prandom_u32() | 1ULL << 32;
	__u16 id = here->id;
	here->id += count;
	return id;
}

/* The place of a sender's record, which may be another's or out of date. */
static __always_inline struct recent_sender *recent_sender(struct recents *here, __u64 address, __u64 door)
{
	struct recent_sender *sender = &here->senders[recent_place(address + door)];
	RECENT_AT(sender);
	return sender;
}

/* The place of a destination's record, which may be another's or out of date. */
static __always_inline struct recent_target *recent_target(struct recents *here, __u64 address, __u64 where)
{
	struct recent_target *target = &here->targets[recent_place(address + where)];
	RECENT_AT(target);
	return target;
}

/* What of records is other than of those for these keys and this instant; 0 for nothing. */
static __always_inline __u64 recent_differs(const struct recent_sender *sender, __u64 source, __u64 door,
					    const struct recent_target *target, __u64 dest, __u64 where, __u64 stamp)
{
	return (sender->address ^ source) | (sender->door ^ door) | (sender->stamp ^ stamp) | (target->address ^ dest) |
	       (target->where ^ where) | (target->stamp ^ stamp);
}
