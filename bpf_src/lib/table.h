// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A table that Python writes and packets look up: four keys and their values in a bucket of one cache line, two buckets in which a key may
// stand. An array look-up costs 2 ns where a hash map costs 30 (the same layout as the FDB's). Python places the keys with the same hash
// (pydp/modes/table.py), and makes the table larger until they fit.

#include "lib/lines.h"

struct table_bucket {
	__u64 key[4]; /* 0 for an empty place */
	__u32 value[4];
	__u64 pad[2];
};

static __always_inline __u64 table_hash(__u64 key)
{
	__u64 hash = key * 0x9e3779b97f4a7c15ULL;
	hash = (hash ^ (hash >> 32)) * 0xd6e8feb86659fd93ULL;
	return hash ^ (hash >> 29);
}

/* A key from an address and a number: all of an IPv4 address, a hash of an IPv6 one, which has to be compared with what is found. Each
 * part is mixed before the next one meets it: addresses that count up, and numbers that do, must not cancel each other. */
static __always_inline __u64 table_key(const __be32 *address, __u32 number, const bool ipv6)
{
	__u64 key = address[0] | (__u64)number << 32;
	if (ipv6)
		key = table_hash(table_hash(table_hash(address[1] | (__u64)address[2] << 32) ^ key) ^ address[3]);
	return key | 1ULL << 63;
}

/* The value of KEY in BUCKET plus one, or 0. */
static __always_inline __u32 table_value(const struct table_bucket *bucket, __u64 key)
{
#pragma unroll
	for (__u32 i = 0; i < 4; i++)
		if (bucket->key[i] == key)
			return bucket->value[i] + 1;
	return 0;
}
