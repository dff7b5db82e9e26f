// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Maps of mode ipvlan, and who has an IP address.

#include "lib/child.h"
#include "lib/clock.h"
#include "lib/hop.h"
#include "lib/neighbour.h"
#include "lib/table.h"

/* The kernel's IPVLAN_MODE_*. */
enum ipvlan_type {
	IPVLAN_L2 = 0, /* children have the parent's network, group frames included */
	IPVLAN_L3 = 1, /* what children send is routed by this host, out of the parent */
	IPVLAN_L3S = 2, /* routed by this host's stack, both ways */
};

/* The kernel's IPVLAN_F_*. */
enum ipvlan_flag {
	IPVLAN_BRIDGE = 0, /* packets for another child go there at once */
	IPVLAN_PRIVATE = 1, /* they are dropped */
	IPVLAN_VEPA = 2, /* they go out, and may be sent back */
};

enum ipvlan_limit {
	IPVLAN_ADDRESSES = 1, /* of all children; as many as there are (Python) */
	IPVLAN_WAYS = 1024, /* next hops that each CPU keeps, a power of two */
};

struct ipvlan_address {
	__be32 address[4]; /* IPv4 in the first word */
	__u32 slot; /* of the child that has it */
	__u32 version;
};

/* The way from a child to an address. */
struct ipvlan_way {
	__be32 address[4];
	__u32 slot;
	__u32 pad;
	struct hop hop;
};

/* Written by Python. */
BPF_TABLE("array", __u32, struct ipvlan_address, ipvlan_addresses, IPVLAN_ADDRESSES);
/* Written by Python: index of each address by itself. See lib/table.h. */
BPF_F_TABLE("array", __u32, struct table_bucket, ipvlan_known, 1, IN_LINES);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct ipvlan_way, ipvlan_ways, IPVLAN_WAYS);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct clock, ipvlan_clock, 1);

static __always_inline bool ipvlan_same(const __be32 *one, const __be32 *other)
{
	return !((one[0] ^ other[0]) | (one[1] ^ other[1]) | (one[2] ^ other[2]) | (one[3] ^ other[3]));
}

/* The record of an address in a bucket; 0 if it is not there. The key of an IPv6 address is only a hash of it. */
static __always_inline struct ipvlan_address *ipvlan_in_bucket(__u32 index, __u64 key, const __be32 *address,
							       __u32 version)
{
	struct table_bucket *bucket = ipvlan_known.lookup(&index);
	__u32 found = bucket ? table_value(bucket, key) : 0, place = found - 1;
	struct ipvlan_address *record = found ? ipvlan_addresses.lookup(&place) : 0;
	return record && record->version == version && ipvlan_same(record->address, address) ? record : 0;
}

/* The slot of the child that has the address, or CHILD_NOBODY. */
static __always_inline __u32 ipvlan_owner(const __be32 *address, __u32 version)
{
	__u64 key = table_key(address, 0, version == 6), hash = table_hash(key);
	struct ipvlan_address *record = ipvlan_in_bucket(hash & (PYDP_IPVLAN_KNOWN - 1), key, address, version);
	if (!record && PYDP_IPVLAN_KNOWN > 1)
		record = ipvlan_in_bucket(hash >> 32 & (PYDP_IPVLAN_KNOWN - 1), key, address, version);
	return record ? record->slot : CHILD_NOBODY;
}
