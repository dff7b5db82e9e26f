// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Hints: what is read ahead of its time. pydp/services/records.py writes them by the same hash.

/* The place of a name in nat_hints. */
static __always_inline __u32 nat_hint_place(const struct nat_name *name)
{
	__u64 words[2];
	__u32 end;
	__builtin_memcpy(words, name->address, sizeof(words));
	__builtin_memcpy(&end, &name->port, sizeof(end));
	return (words[0] * 0x9e3779b97f4a7c15ULL + words[1] * 0xbf58476d1ce4e5b9ULL + end * 0x94d049bb133111ebULL) >>
	       NAT_HINT_SHIFT;
}

/* Have a record come from memory while something else is done. */
static __always_inline void nat_fetch(const __u64 *word)
{
	if (word)
		asm volatile("" ::"r"(*(const volatile __u64 *)word));
}
