// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The parser alone: what it found goes into a map. Numbers as the CPU has them, addresses as in the packet.

struct probe_result {
	__u64 dest; /* first byte lowest */
	__u64 source;
	__u32 length;
	__u32 parsed;
	__u16 tags;
	__u16 tci;
	__u16 tag_protocol;
	__u16 inner_tci;
	__u16 ethertype;
	__u16 network;
	__u16 transport;
	__u16 sport;
	__u16 dport;
	__u8 flags;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 saddr[16];
	__u8 daddr[16];
};

BPF_TABLE("array", __u32, struct probe_result, probe_results, 1);

int probe(hook_ctx *ctx)
{
	struct packet packet = {};
	__u32 zero = 0;
	struct probe_result *result = probe_results.lookup(&zero);
	if (!result)
		return hook_drop();
	result->parsed = parse_packet(ctx, &packet);
	result->dest = packet.dest;
	result->source = packet.source;
	result->length = packet.length;
	result->tags = packet.tags;
	result->tci = packet.tci;
	result->tag_protocol = bpf_ntohs(packet.tag_protocol);
	result->inner_tci = packet.inner_tci;
	result->ethertype = bpf_ntohs(packet.ethertype);
	result->network = packet.network;
	result->transport = packet.transport;
	result->sport = bpf_ntohs(packet.sport);
	result->dport = bpf_ntohs(packet.dport);
	result->flags = packet.flags;
	result->protocol = packet.protocol;
	result->tcp_flags = packet.tcp_flags;
	result->icmp_type = packet.icmp_type;
	result->icmp_code = packet.icmp_code;
	__builtin_memcpy(result->saddr, packet.saddr, 16);
	__builtin_memcpy(result->daddr, packet.daddr, 16);
	return hook_pass();
}
