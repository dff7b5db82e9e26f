// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The frame that benchmarks send: Ethernet, IPv4, UDP, a number and a check. Its addresses come from a list drawn
// beforehand, so that whatever keeps addresses meets many of them, in the distribution asked for; to draw them here would cost
// more than some of what is measured. A packet is the same without Ethernet, and then it is the IPv4 addresses that vary.

enum bench_limit {
	BENCH_DRAWS = 65536, /* pairs of addresses, taken in turn, unless Python has more of them */
	BENCH_NUMBER = 42, /* offset of the number: Ethernet 14, IPv4 20, UDP 8 */
	BENCH_CHECK = 50, /* offset of the check */
	BENCH_LENGTH = 58, /* shortest frame that holds both */
	BENCH_ETHERNET = 14, /* a packet's offsets are smaller by that */
	BENCH_HEAD = 56, /* bytes that every frame begins with: up to the end of an IPv4 header in another */
};

enum bench_side {
	BENCH_SOURCE = 0x02b0, /* begin of the addresses that send */
	BENCH_DEST = 0x02b1, /* begin of those that receive */
	BENCH_PORT = 9, /* both UDP ports of the innermost packet (discard) */
};

/* A pair of addresses; how many different ones there are is Python's business. Those of packets are in host order. */
struct bench_draw {
	__u32 source;
	__u32 dest;
};

/* What the check of a frame must be: a value that neither zeros nor parts of two frames give. */
static __always_inline __u64 bench_check(__u64 number, __u32 source, __u32 dest)
{
	return (number ^ ((__u64)source << 32 | dest)) * 0x9e3779b97f4a7c15ULL;
}
