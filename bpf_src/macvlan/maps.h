// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Maps of mode macvlan, and who has a MAC address.

#include "lib/child.h"
#include "lib/table.h"

enum macvlan_type {
	MACVLAN_PRIVATE = 1, /* children do not hear of each other, reflected frames included */
	MACVLAN_VEPA = 2, /* everything goes out, and the switch may send it back */
	MACVLAN_BRIDGE = 4, /* frames for another child go there at once */
	MACVLAN_PASSTHRU = 8, /* one child that gets everything */
};

/* Written by Python: slot of each child by its MAC address. See lib/table.h. */
BPF_F_TABLE("array", __u32, struct table_bucket, macvlan_known, 1, IN_LINES);

/* The slot of the child with that address, or CHILD_NOBODY. */
static __always_inline __u32 macvlan_child(__u64 mac)
{
	__u64 key = mac | 1ULL << 63, hash = table_hash(key);
	__u32 index = hash & (PYDP_MACVLAN_KNOWN - 1);
	struct table_bucket *bucket = macvlan_known.lookup(&index);
	__u32 found = bucket ? table_value(bucket, key) : 0;
	if (!found && PYDP_MACVLAN_KNOWN > 1) {
		index = hash >> 32 & (PYDP_MACVLAN_KNOWN - 1);
		bucket = macvlan_known.lookup(&index);
		found = bucket ? table_value(bucket, key) : 0;
	}
	return found ? found - 1 : CHILD_NOBODY;
}
