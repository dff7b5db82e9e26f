// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The time in ticks of 16.8 ms. Jiffies cost nothing to read and tell when the clock may have moved on, the clock costs 14 ns: so it is read
// once a jiffy and CPU. (Jiffies alone would do, if Python could know the running kernel's HZ.) Each stage keeps what it said in a map of
// its own, per CPU.

enum clock_limit {
	CLOCK_TICK_SHIFT = 24, /* ns to ticks */
};

struct clock {
	__u64 jiffies; /* when the clock was read */
	__u32 now; /* what it said, in ticks */
	__u32 pad;
};

static __always_inline __u32 clock_now(struct clock *clock)
{
	__u64 jiffies = bpf_jiffies64();
	if (!clock)
		return 0;
	if (clock->jiffies != jiffies) {
		clock->now = bpf_ktime_get_coarse_ns() >> CLOCK_TICK_SHIFT;
		clock->jiffies = jiffies;
	}
	return clock->now;
}
