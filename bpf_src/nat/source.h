// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Sources: which packets get another one when they leave, and a port that nobody else has.

enum nat_source_limit {
	NAT_PORTS_TRIED = 64, /* ports that are looked at in one run */
	NAT_RUNS = 24, /* runs for one packet (the kernel lets programs call 33 one after the other) */
};

static __always_inline bool nat_within(const __be32 *address, const struct nat_rule *rule)
{
	__be32 differs = 0;
#pragma unroll
	for (int i = 0; i < 4; i++)
		differs |= (address[i] ^ rule->address[i]) & rule->mask[i];
	return !differs;
}

/* The new source of a packet with this TUPLE that leaves by DEVICE. Not for what stays behind the prefix. False if it keeps its own. */
static __always_inline bool nat_new_source(const struct nat_tuple *tuple, __u8 version, const struct nat_device *device,
					   __be32 *address)
{
	for (__u32 i = 0; i < PYDP_NAT_RULES; i++) {
		__u32 number = i;
		struct nat_rule *rule = nat_rules.lookup(&number);
		if (!rule || rule->version != version)
			continue;
		bool here = rule->device ? rule->device == device->ifindex : device->flags & NAT_DEVICE_PORT;
		if (!here || !nat_within(tuple->saddr, rule) || nat_within(tuple->daddr, rule))
			continue;
		__builtin_memcpy(address, rule->to, 16);
		return address[0] | address[1] | address[2] | address[3] ||
		       nat_device_address(device, version, address);
	}
	return false;
}

/* Does a socket of this host have the tuple's destination, or would it take packets for it? */
static __always_inline bool nat_has_socket(hook_ctx *ctx, const struct nat_tuple *tuple, __u8 protocol, __u8 version)
{
	struct bpf_sock_tuple wanted = {};
	__u32 size = version == 6 ? sizeof(wanted.ipv6) : sizeof(wanted.ipv4);
	if (version == 6) {
		__builtin_memcpy(wanted.ipv6.saddr, tuple->saddr, 16);
		__builtin_memcpy(wanted.ipv6.daddr, tuple->daddr, 16);
		wanted.ipv6.sport = tuple->sport;
		wanted.ipv6.dport = tuple->dport;
	} else {
		wanted.ipv4.saddr = tuple->saddr[0];
		wanted.ipv4.daddr = tuple->daddr[0];
		wanted.ipv4.sport = tuple->sport;
		wanted.ipv4.dport = tuple->dport;
	}
	struct bpf_sock *sock = 0;
	if (protocol == IP_TCP)
		sock = bpf_skc_lookup_tcp(ctx, &wanted, size, BPF_F_CURRENT_NETNS, 0);
	else if (protocol == IP_UDP)
		sock = bpf_sk_lookup_udp(ctx, &wanted, size, BPF_F_CURRENT_NETNS, 0);
	if (!sock)
		return false;
	bpf_sk_release(sock);
	return true;
}

/* All bits set if the buckets of HASH name no record for it that lives, else none. */
static __always_inline __u32 nat_if_unused(__u64 hash, __u32 now)
{
	__u64 entry = nat_entry(hash, 0);
	struct nat_bucket *one = nat_bucket(hash), *other = nat_bucket(hash >> 32);
	if (!one || !other)
		return 0;
	__u32 named = nat_named(one, entry) | nat_named(other, entry);
	struct nat_flow *flow = nat_flow(named - 1);
	if (!flow)
		return 0;
	__u32 over = (__s32)((__u32)flow->life - now) >> 31;
	asm volatile("" : "+r"(over));
	return over | nat_if_none(named);
}

/* Give REPLY a port, or an identifier, that no flow has: the first one from FROM on under whose hash none stands in the index that lives. FROM gets
 * where the next run goes on: behind that one, in case a socket has it, or elsewhere if there is none. Without leaving the loop early, since the
 * verifier would follow all else from each place where that could happen. */
static __always_inline bool nat_other_port(struct nat_tuple *reply, __u8 protocol, __u8 version, __u64 seed, __u32 now,
					   __u32 *from)
{
	const bool echo = protocol == IP_ICMP || protocol == IP_ICMPV6;
	if (!echo && protocol != IP_TCP && protocol != IP_UDP && protocol != IP_SCTP)
		return false;
	__u64 addresses = nat_hash_addresses(reply, protocol, version, seed);
	__u32 low = echo ? 0 : PYDP_NAT_PORT_LOW, count = echo ? 65536 : PYDP_NAT_PORT_COUNT;
	__u32 at = *from, next = 0, chosen = 0, sport = reply->sport & (echo - 1), same = -echo;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < NAT_PORTS_TRIED; i++) {
		__u32 port = bpf_htons(low + (__u16)(at % count));
		__u64 hash = nat_hash_ports(addresses, sport | (port & same), port);
		__u32 take = nat_if_unused(hash, now) & nat_if_none(chosen);
		at++;
		chosen |= (1 << 16 | port) & take;
		next |= at & take;
	}
	*from = chosen ? next : bpf_get_prandom_u32();
	reply->dport = chosen;
	reply->sport = sport | (chosen & same);
	return chosen;
}
