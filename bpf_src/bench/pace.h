// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// When frames leave: at a rate, in bursts, each with the time in place of its number. The clock is looked at again and again
// until a burst is due, which keeps its CPU: another one is to carry what is sent.

/* Not 0: frames are timed, and leave as bench_pace says. */
#ifndef BENCH_TIMED
#define BENCH_TIMED CONSTANT(3)
#endif

enum bench_wait {
	BENCH_TICKS = 6, /* times are in ns << BENCH_TICKS: gaps between frames may be no whole ns */
	BENCH_LOOKS = 8192, /* at the clock, some 40 ns each: no burst waits longer */
	BENCH_LATE =
		20000, /* ns that a burst may be late, and those behind it leave sooner; what is missed beyond is missed */
	BENCH_STALL = 100000, /* ns that a burst is late only where somebody else had the CPU */
};

struct bench_pace {
	__u64 gap; /* from one burst to the next; 0: as soon as can be */
	__u64 due; /* when the next one leaves; 0: now */
	__u64 burst; /* frames of a burst, a power of two */
	__u64 sent; /* frames that have left */
	__u64 begun; /* when the first burst left, in ns */
	__u64 last; /* and the last one */
	__u64 stalled; /* ns in between in which somebody else had the CPU */
};

/* Gap and burst are written by Python, which sets the others to 0, and those by the datapath. */
BPF_TABLE("array", __u32, struct bench_pace, bench_paces, 1);

static __always_inline void bench_wait(struct bench_pace *pace)
{
	__u64 now = bpf_ktime_get_ns() << BENCH_TICKS, due = pace->due;
	if (due + (BENCH_LATE << BENCH_TICKS) < now) {
		if (due && due + ((__u64)BENCH_STALL << BENCH_TICKS) < now)
			pace->stalled += (now - due) >> BENCH_TICKS;
		due = now;
	}
#pragma nounroll
	for (int look = 0; look < BENCH_LOOKS && now < due; look++)
		now = bpf_ktime_get_ns() << BENCH_TICKS;
	pace->due = due + pace->gap;
	pace->last = now >> BENCH_TICKS;
	if (!pace->begun)
		pace->begun = pace->last;
}

/* Wait until the next frame may leave, and read the time; leave the NUMBER alone if frames are not timed. */
static __always_inline void bench_leave(__u64 *number)
{
	__u32 zero = 0;
	if (!BENCH_TIMED)
		return;
	struct bench_pace *pace = bench_paces.lookup(&zero);
	if (!pace)
		return;
	if (!(pace->sent++ & (pace->burst - 1)))
		bench_wait(pace);
	*number = bpf_ktime_get_ns();
}
