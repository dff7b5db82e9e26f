// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Hints at who answers for a frontend (ahead.h reads them). pydp/services/records.py writes them by the same hash.

/* The place in nat_hints of the frontend with this address, and the rest of its name: port, protocol, and version. */
static __always_inline __u32 nat_hint_place(const __be32 *address, __be16 port, __u8 protocol, __u8 version)
{
	__u64 words[2], end = port | (__u32)protocol << 16 | (__u32)version << 24;
	__builtin_memcpy(words, address, sizeof(words));
	__u64 hash = words[0] * 0x9e3779b97f4a7c15ULL + words[1] * 0xbf58476d1ce4e5b9ULL + end * 0x94d049bb133111ebULL;
	return (hash ^ hash >> 32) * 0x9e3779b97f4a7c15ULL >> PYDP_NAT_HINT_SHIFT;
}

/* Which of so many slots a flow gets. */
static __always_inline __u32 nat_slot_of(__u64 hash, __u32 count)
{
	return (hash * 0xd6e8feb86659fd93ULL >> 32) * count >> 32;
}

/* Have a record come from memory while something else is done. */
static __always_inline void nat_fetch(const __u64 *word)
{
	if (word)
		asm volatile("" ::"r"(*(const volatile __u64 *)word));
}

/* This CPU's counter of a backend. */
static __always_inline struct nat_count *nat_count_of(__u32 number)
{
	__u32 place = number * (__u32)STAGE_CONSTANT(STAGE_NAT, CONSTANT_CPUS) + bpf_get_smp_processor_id();
	return nat_counts.lookup(&place);
}
