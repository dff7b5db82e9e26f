// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Records of senders and destinations (lib/recent.h). Besides their instant, they are good until somebody calls recent_forget(), on whichever
// CPU: what changes of a sudden is known at once.

#include "lib/recent.h"

/* A sender of which nothing is left to be learned, and whose packets are let in. */
struct recent_sender {
	__u64 address;
	__u64 door; /* where its packets come in: slot of a port, or key of a VTEP (struct table_bucket) */
	__u64 stamp;
	__u32 segment;
	__u32 index; /* of the VTEP */
};

/* A destination, and how to get there. */
struct recent_target {
	__u64 address; /* with the segment */
	__u64 stamp;
	__u32 egress; /* ifindex */
	__u32 longest; /* bytes of a packet as it comes in that may go there */
	__u32 index; /* of the VTEP; the rest is for it, too */
	__u16 low; /* source ports: from here */
	__u16 high; /* up to here, not included */
	__u64 words[7]; /* outer headers, with 0 for what differs between packets */
	__u64 sum; /* of the outer IPv4 header as it stands there: 16 bits */
};

/* Written by the datapath: how often all had to be forgotten, in units of RECENT_CHANGE. */
BPF_TABLE("array", __u32, __u64, recent_changes, 1);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct recent_sender, recent_senders, RECENT_PLACES);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct recent_target, recent_targets, RECENT_PLACES);

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

/* The place of a sender's record, which may be another's or out of date. */
static __always_inline struct recent_sender *recent_sender_place(__u64 address, __u64 door)
{
	__u32 place = recent_place(address + door);
	return recent_senders.lookup(&place);
}

/* The record of a sender, or null. */
static __always_inline struct recent_sender *recent_sender(__u64 address, __u64 door, __u64 stamp)
{
	struct recent_sender *sender = recent_sender_place(address, door);
	if (!sender || (sender->address ^ address) | (sender->door ^ door) | (sender->stamp ^ stamp))
		return 0;
	return sender;
}

/* The place of a destination's record, which may be another's or out of date. */
static __always_inline struct recent_target *recent_target_place(__u64 address)
{
	__u32 place = recent_place(address);
	return recent_targets.lookup(&place);
}

/* The record of a destination to which LENGTH bytes may go, or null. */
static __always_inline struct recent_target *recent_target(__u64 address, __u64 stamp, __u32 length)
{
	struct recent_target *target = recent_target_place(address);
	if (!target || (target->address ^ address) | (target->stamp ^ stamp) || length > target->longest)
		return 0;
	return target;
}
