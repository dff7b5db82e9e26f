// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Takes the packets of flows (bench/nat_send.h) where they arrive, translated or not: those for another end are left to
// the stack.

/* The network that they are to be for, in host order, and its mask. */
#define BENCH_ENDS	CONSTANT(0)
#define BENCH_ENDS_MASK CONSTANT(1)
/* Their destination port. */
#define BENCH_END_PORT	CONSTANT(2)

/* The sum of the 16-bit words from AT on, of which there are COUNT. */
static __always_inline __u64 bench_sum(const void *at, const int count)
{
	__u64 sum = 0;
#pragma unroll
	for (int i = 0; i < count; i++)
		sum += ((const __u16 *)at)[i];
	return sum;
}

/* Is the sum one of words whose checksum is among them? */
static __always_inline bool bench_sums_up(__u64 sum)
{
	sum = (sum >> 16) + (__u16)sum;
	sum = (sum >> 16) + (__u16)sum;
	return sum == 0xffff;
}

/* Are both checksums right? What is behind the first LENGTH bytes that follow the IPv4 header is all zero. */
static __always_inline bool bench_right(const void *frame, __u8 protocol, const int length)
{
	__u16 whole = bpf_ntohs(*(__be16 *)(frame + 16)) - 20;
	__u64 pseudo = bench_sum(frame + 26, 4) + bpf_htons(protocol) + bpf_htons(whole);
	return bench_sums_up(bench_sum(frame + 14, 10)) && bench_sums_up(pseudo + bench_sum(frame + 34, length / 2));
}

/* The frame of a flow, NULL if it is none. Reads the client, its port and where the number is, less BENCH_NUMBER. */
static __always_inline void *bench_flow_frame(hook_ctx *ctx, const bool tcp, __u32 *client, __u32 *port)
{
	void *data = hook_data(ctx), *end = hook_data_end(ctx);
	const int length = tcp ? 20 + 16 : 8 + 22;
	if (data + 34 + length > end || *(__be16 *)(data + 12) != bpf_htons(0x0800) || *(__u8 *)(data + 14) != 0x45)
		return 0;
	__u32 dest = bpf_ntohl(*(__be32 *)(data + 30));
	if (*(__u8 *)(data + 23) != (tcp ? IPPROTO_TCP : IPPROTO_UDP) || (dest & BENCH_ENDS_MASK) != BENCH_ENDS ||
	    bpf_ntohs(*(__be16 *)(data + 36)) != BENCH_END_PORT)
		return 0;
	*client = bpf_ntohl(*(__be32 *)(data + 26));
	*port = bpf_ntohs(*(__be16 *)(data + 34));
	return data;
}

static __always_inline int bench_take_flow(hook_ctx *ctx, const bool tcp)
{
	__u32 zero = 0, client, port;
	struct bench_arrival *arrival = bench_arrivals.lookup(&zero);
	void *data = bench_flow_frame(ctx, tcp, &client, &port), *frame = data + (tcp ? 12 : 0);
	if (!arrival || !data)
		return hook_pass();
	__u64 number = *(__u64 *)(frame + BENCH_NUMBER);
	if (!(number & (BENCH_MARK_EVERY - 1)) && !bench_right(data, tcp ? IPPROTO_TCP : IPPROTO_UDP, tcp ? 36 : 30))
		arrival->corrupt++;
	return bench_take(ctx, arrival, frame, client, port);
}

/* Packets of UDP. Of every BENCH_MARK_EVERYth the checksums are looked at, too: to do so each time would cost more than
 * some of what is measured. */
int bench_sink_udp_flow(hook_ctx *ctx)
{
	return bench_take_flow(ctx, false);
}

int bench_sink_tcp_flow(hook_ctx *ctx)
{
	return bench_take_flow(ctx, true);
}
