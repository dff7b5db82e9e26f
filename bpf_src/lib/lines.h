// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Where elements of array maps stand.

/* For an array whose elements are lines of the cache, or several: they begin at the beginning of one. Elements of other arrays stand right behind the
 * kernel's description of the map (struct bpf_array), on 6.18 at byte 56 of a line, and each is then in two; those of one that may be mapped
 * begin at a page of their own (array_map_alloc() of kernel/bpf/arraymap.c). */
#define IN_LINES BPF_F_MMAPABLE
