// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What each VTEP sends, gets, and does not get.

static __always_inline void vxlan_count_sent(const struct vxlan_vtep *vtep, __u32 index, __u32 length)
{
	struct tunnel_count *count = PYDP_COUNTERS ? vxlan_counts.lookup(&index) : 0;
	if (count) {
		tunnel_owned(count, vtep->owner);
		count->sent_packets++;
		count->sent_bytes += length;
	}
}

static __always_inline void vxlan_count_received(const struct vxlan_vtep *vtep, __u32 index, __u32 length)
{
	struct tunnel_count *count = PYDP_COUNTERS ? vxlan_counts.lookup(&index) : 0;
	if (count) {
		tunnel_owned(count, vtep->owner);
		count->received_packets++;
		count->received_bytes += length;
	}
}

/* A packet from or for a VTEP is left to the kernel, or dropped. */
static __always_inline void vxlan_count_fate(__u32 index, enum verdict verdict)
{
	struct tunnel_fate key = { .index = index, .verdict = verdict };
	struct vxlan_vtep *vtep = PYDP_COUNTERS ? vxlan_vtep(index) : 0;
	__u64 zero = 0;
	if (!vtep)
		return;
	key.owner = vtep->owner;
	__u64 *count = vxlan_fates.lookup_or_try_init(&key, &zero);
	if (count)
		(*count)++;
}
