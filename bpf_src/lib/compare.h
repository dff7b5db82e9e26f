// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// A comparison with the kernel's path (pydp compare): which packets are left to it, and after what time they are answered. Part of a
// program only while one is under way (PYDP_COMPARE).
//
// Whoever compares says for how long some packets go one way or the other, and says so again before that time is over. When nobody
// does any more, all go by PYDP_COMPARE_REST again, at the latest when the time is over: no process has to be there for it.

#include "lib/clock.h"

enum compare_limit {
	COMPARE_WHOLE = 1000, /* share of all flows */
	COMPARE_ROOM = 128, /* bytes of a frame that are looked at */
	COMPARE_PLACES = 4096, /* packets whose answers are waited for */
	COMPARE_ONE_OF = 4, /* of so many packets that may be answered, the time of one is taken */
	COMPARE_STEPS = 8, /* steps of the scale of times to a power of two, of ns */
	COMPARE_SCALE = 320, /* steps of the scale, up to 18 minutes */
};

enum compare_path {
	COMPARE_KERNEL = 0, /* left to the kernel */
	COMPARE_EBPF = 1, /* decided about in eBPF */
	COMPARE_PATHS = 2, /* how many there are */
};

struct compare_turn {
	__u32 until; /* in ticks; then PYDP_COMPARE_REST is the share. 0: it is already */
	__u32 share; /* of the flows that eBPF has, of COMPARE_WHOLE */
};

/* A packet that may be answered. Two CPUs may write one at once, and a time may then be wrong. */
struct compare_asked {
	__u64 key; /* of its flow, and of what its answer repeats */
	__u64 when; /* it came in, in ns; 0 for one that was answered. The lowest bit: enum compare_path */
};

/* What is looked at of a packet. Both directions of a flow have one hash. */
struct compare_seen {
	__u64 hash;
	__u64 asks; /* what an answer would repeat, 0 for nothing */
	__u64 answers; /* what it repeats, 0 for nothing */
};

/* Written by Python, while running. */
BPF_TABLE("array", __u32, struct compare_turn, compare_turns, 1);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct clock, compare_clock, 1);
/* Written by the datapath. Index: hash of the key. */
BPF_TABLE("array", __u32, struct compare_asked, compare_asked, COMPARE_PLACES);
/* Written by the datapath: how many answers came after that time. Index: enum compare_path * COMPARE_SCALE + step of the scale. */
BPF_TABLE("percpu_array", __u32, __u64, compare_times, COMPARE_PATHS *COMPARE_SCALE);

static __always_inline __u64 compare_mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ (hash >> 32);
}

/* Two values that the other direction has the other way around. */
static __always_inline __u64 compare_mix_pair(__u64 hash, __u32 one, __u32 other)
{
	return compare_mix(hash, (__u64)(one ^ other) << 32 | (__u32)(one + other));
}

/* TCP with data asks, with the time stamp that the answer repeats (RFC 7323). The options stand as Linux and others write them: two for
 * padding, then the stamps. */
static __always_inline void compare_tcp(struct compare_seen *seen, const __be32 *tcp, const void *end, __u32 length)
{
	if ((const void *)(tcp + 8) > end || tcp[5] != bpf_htonl(0x0101080a))
		return;
	__u32 header = (bpf_ntohl(tcp[3]) >> 28) * 4;
	if (header < 32)
		return;
	seen->asks = length > header ? 1ULL << 32 | tcp[6] : 0;
	seen->answers = 1ULL << 32 | tcp[7];
}

/* Echo: type, code and checksum, then what the reply repeats. */
static __always_inline void compare_echo(struct compare_seen *seen, const __be32 *icmp, const void *end, __u8 request,
					 __u8 reply)
{
	if ((const void *)(icmp + 2) > end)
		return;
	__u8 type = *(const __u8 *)icmp;
	if (type == request)
		seen->asks = 2ULL << 32 | icmp[1];
	if (type == reply)
		seen->answers = 2ULL << 32 | icmp[1];
}

static __always_inline void compare_transport(struct compare_seen *seen, __u8 protocol, const __be32 *at,
					      const void *end, __u32 length)
{
	seen->hash = compare_mix(seen->hash, protocol);
	if (protocol == IP_ICMP)
		compare_echo(seen, at, end, 8, 0);
	if (protocol == IP_ICMPV6)
		compare_echo(seen, at, end, 128, 129);
	if ((protocol != IP_TCP && protocol != IP_UDP && protocol != IP_SCTP) || (const void *)(at + 1) > end)
		return;
	__u32 ports = bpf_ntohl(at[0]);
	seen->hash = compare_mix_pair(seen->hash, ports >> 16, ports & 0xffff);
	if (protocol == IP_TCP)
		compare_tcp(seen, at, end, length);
}

/* Ports are left out where not all packets of a flow have them: of fragments, and behind options and extension headers. */
static __always_inline void compare_look(hook_ctx *ctx, const struct packet *packet, struct compare_seen *seen)
{
	hook_pull(ctx, COMPARE_ROOM);
	const void *at = hook_data(ctx) + packet->network, *end = hook_data_end(ctx);
	const struct iphdr *ip = at;
	const __be32 *words = at;
	if (packet->ethertype == bpf_htons(ETH_P_IP) && at + 20 <= end) {
		seen->hash = compare_mix_pair(seen->hash, words[3], words[4]);
		if (ip->ihl == 5 && !(ip->frag_off & bpf_htons(0x3fff)))
			compare_transport(seen, ip->protocol, at + 20, end, bpf_ntohs(ip->tot_len) - 20);
	} else if (packet->ethertype == bpf_htons(ETH_P_IPV6) && at + 40 <= end) {
#pragma unroll
		for (int i = 0; i < 4; i++)
			seen->hash = compare_mix_pair(seen->hash, words[2 + i], words[6 + i]);
		compare_transport(seen, bpf_ntohl(words[1]) >> 8 & 0xff, at + 40, end, bpf_ntohl(words[1]) >> 16);
	} else {
		__u64 both = packet->source ^ packet->dest;
		seen->hash = compare_mix(seen->hash, both ^ (__u64)packet->ethertype << 48);
	}
}

/* Has the kernel this packet now? */
static __always_inline bool compare_is_left(const struct compare_seen *seen)
{
	__u32 zero = 0, share = PYDP_COMPARE_REST;
	struct compare_turn *turn = compare_turns.lookup(&zero);
	if (turn && turn->until && (__s32)(clock_now(compare_clock.lookup(&zero)) - turn->until) < 0)
		share = turn->share;
	return ((compare_mix(seen->hash, 0) & 0xffff) * COMPARE_WHOLE >> 16) >= share;
}

/* Position of the highest bit of NUMBER, which is not 0. */
static __always_inline __u32 compare_log2(__u64 number)
{
	__u32 found = 0;
#pragma unroll
	for (__u32 half = 32; half; half /= 2) {
		if (number >> half) {
			number >>= half;
			found += half;
		}
	}
	return found;
}

static __always_inline void compare_count(__u64 ns, __u32 path)
{
	if (ns < COMPARE_STEPS)
		return;
	__u32 power = compare_log2(ns), step = power * COMPARE_STEPS + (ns >> (power - 3) & (COMPARE_STEPS - 1));
	__u32 index = path * COMPARE_SCALE + (step < COMPARE_SCALE ? step : COMPARE_SCALE - 1);
	__u64 *count = compare_times.lookup(&index);
	if (count)
		(*count)++;
}

/* The key of what a packet of that flow asks or answers, 0 for nothing. Mixed twice: numbers that follow each other differ in a few bits, and those
 * whose time is taken should not be the ones of some stretches. */
static __always_inline __u64 compare_key(__u64 hash, __u64 what)
{
	return what ? compare_mix(compare_mix(hash, what), 0) : 0;
}

/* The place of a key; none for those whose time is not taken. */
static __always_inline struct compare_asked *compare_place(__u64 key)
{
	__u32 place = key >> 40 & (COMPARE_PLACES - 1);
	return key >> 20 & (COMPARE_ONE_OF - 1) ? 0 : compare_asked.lookup(&place);
}

/* Of packets that ask the same, the first one counts: what it says is answered once, and later ones may have come after that was sent. */
static __always_inline void compare_time(const struct compare_seen *seen, bool left)
{
	__u64 asks = compare_key(seen->hash, seen->asks), answers = compare_key(seen->hash, seen->answers);
	struct compare_asked *asked = asks ? compare_place(asks) : 0;
	if (asked && asked->key != asks) {
		asked->when = 0;
		asked->key = asks;
		asked->when = (bpf_ktime_get_ns() & ~1ULL) | (left ? COMPARE_KERNEL : COMPARE_EBPF);
	}
	struct compare_asked *answered = answers ? compare_place(answers) : 0;
	__u64 when = answered && answered->key == answers ? answered->when : 0;
	if (when) {
		answered->when = 0;
		compare_count(bpf_ktime_get_ns() - (when & ~1ULL), when & 1);
	}
}

/* Before the first stage: decide which way a packet goes, and see whether it asks or answers. */
static __always_inline void compare_packet(hook_ctx *ctx, struct packet *packet)
{
	struct compare_seen seen = {};
	compare_look(ctx, packet, &seen);
	packet->left = compare_is_left(&seen);
	compare_time(&seen, packet->left);
}
