// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Packets of many flows: from one client after the other to services, with checksums that are right. A draw has the
// number of a flow and the address of its service.

/* The first address of the clients, in host order: a network of 2^17. */
#define BENCH_CLIENTS CONSTANT(0)
/* Not 0: each packet begins a flow. */
#define BENCH_FRESH   CONSTANT(1)

enum bench_flow {
	BENCH_FLOW_PORTS = 15, /* bits of a flow's number that are its source port, above the port 0x8000 */
	BENCH_FLOW_CLIENTS = 0x1ffff, /* the others are its client */
	BENCH_UDP_PAYLOAD = 42, /* offset of what the number and the check are in: Ethernet 14, IPv4 20, UDP 8 */
	BENCH_TCP_PAYLOAD = 54,
	BENCH_UDP_CHECKSUM = 40,
	BENCH_TCP_CHECKSUM = 50,
};

/* The 16 bits of a checksum (RFC 1071) of which SUM is the sum of 32-bit words. */
static __always_inline __u16 bench_fold(__u64 sum)
{
	sum = (sum >> 32) + (__u32)sum;
	sum = (sum >> 16) + (__u16)sum;
	sum = (sum >> 16) + (__u16)sum;
	sum = (sum >> 16) + (__u16)sum;
	return ~sum;
}

static __always_inline __u64 bench_words(__u64 value)
{
	return (value >> 32) + (__u32)value;
}

/* Make the frame the next one. Its head has zero for the addresses, the source port and what varies, and checksums that
 * fit. */
static __always_inline int bench_send_flow(struct xdp_md *ctx, const bool tcp)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const int payload = tcp ? BENCH_TCP_PAYLOAD : BENCH_UDP_PAYLOAD;
	const int checksum = tcp ? BENCH_TCP_CHECKSUM : BENCH_UDP_CHECKSUM;
	__u64 number;
	if (!bench_restore(data, end) || data + payload + 16 > end)
		return XDP_ABORTED;
	struct bench_draw *draw = bench_next(&number);
	if (!draw)
		return XDP_ABORTED;
	__u32 flow = BENCH_FRESH ? number : draw->source;
	__u32 client = BENCH_CLIENTS + (flow >> BENCH_FLOW_PORTS & BENCH_FLOW_CLIENTS);
	__u32 port = 0x8000 | (flow & 0x7fff);
	bench_leave(&number);
	__u64 check = bench_check(number, client, port);
	__u32 saddr = bpf_htonl(client), daddr = bpf_htonl(draw->dest);
	__be16 sport = bpf_htons(port);
	__u64 addresses = (__u64)saddr + daddr;
	*(__be16 *)(data + 24) = bench_fold((__u16) ~*(__be16 *)(data + 24) + addresses);
	*(__be32 *)(data + 26) = saddr;
	*(__be32 *)(data + 30) = daddr;
	*(__be16 *)(data + 34) = sport;
	__u64 sum =
		(__u16) ~*(__be16 *)(data + checksum) + addresses + sport + bench_words(number) + bench_words(check);
	__u16 folded = bench_fold(sum);
	*(__be16 *)(data + checksum) = folded || tcp ? folded : 0xffff; /* 0 says that UDP has none */
	*(__u64 *)(data + payload) = number;
	*(__u64 *)(data + payload + 8) = check;
	return XDP_TX;
}

int bench_send_udp_flow(struct xdp_md *ctx)
{
	return bench_send_flow(ctx, false);
}

int bench_send_tcp_flow(struct xdp_md *ctx)
{
	return bench_send_flow(ctx, true);
}
