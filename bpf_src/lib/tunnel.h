// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What went to and came from the other end of a tunnel.

struct tunnel_count {
	__u64 sent_packets; /* encapsulated, or handed to the kernel to be */
	__u64 sent_bytes; /* of inner frames or packets */
	__u64 received_packets;
	__u64 received_bytes;
	__u64 owner; /* whose these are, where places in the map change hands; else 0 */
};

/* Make what was counted for another owner nobody's. */
static __always_inline void tunnel_owned(struct tunnel_count *count, __u64 owner)
{
	if (count->owner == owner)
		return;
	count->sent_packets = count->sent_bytes = count->received_packets = count->received_bytes = 0;
	count->owner = owner;
}

/* Packets of a tunnel about which a punt or a drop was decided: key of a counter. */
struct tunnel_fate {
	__u64 owner; /* as in struct tunnel_count */
	__u32 index; /* of the VTEP or peer */
	__u32 verdict; /* enum verdict */
};

enum tunnel_limit {
	TUNNEL_FATES = 65536, /* tunnels times verdicts that are counted */
};
