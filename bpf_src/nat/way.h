// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Where a translated packet goes on to: the kernel's routes and neighbours, asked once in 50 ms and CPU for each destination, for the
// reasons that lib/hop.h gives.

static __always_inline struct nat_device *nat_device(__u32 ifindex)
{
	__u32 place = ifindex & (PYDP_NAT_PLACES - 1);
	struct nat_device *device = nat_devices.lookup(&place);
	if (!device || device->ifindex != ifindex)
		return 0;
	asm volatile("" ::: "memory"); /* no arithmetic with pointers in place of branches */
	return device;
}

/* Is the way one for these addresses, and fresh? */
static __always_inline bool nat_way_holds(const struct nat_way *way, const __be32 *daddr, __u32 device, __u32 now)
{
	__be32 differs = (way->address[0] ^ daddr[0]) | (way->address[1] ^ daddr[1]) | (way->address[2] ^ daddr[2]) |
			 (way->address[3] ^ daddr[3]) | (way->device ^ device);
	return !differs && way->checked && now - way->checked <= HOP_KEPT;
}

/* Ask the kernel. A device without a next hop that is known is told, too. */
static __always_inline void nat_way_ask(hook_ctx *ctx, struct nat_way *way, const struct nat_tuple *to, __u32 device,
					__u8 version, __u8 protocol)
{
	struct bpf_fib_lookup fib = {};
	long answer = hop_ask(ctx, &fib, to->daddr, to->saddr, device, version == 6, protocol);
	bool known = answer == BPF_FIB_LKUP_RET_SUCCESS;
	way->ready = known;
	way->ifindex = known ? fib.ifindex : 0;
	way->mtu = fib.mtu_result;
	if (answer == BPF_FIB_LKUP_RET_NO_NEIGH) { /* says nothing of the MTU */
		struct nat_device *out = nat_device(fib.ifindex);
		way->mtu = out ? out->mtu : 0;
		way->ifindex = out ? out->ifindex : 0;
	}
	hop_header(&way->header, &fib);
}

/* The way of what is addressed as TO says and came in by DEVICE. */
static __always_inline struct nat_way *nat_way_find(hook_ctx *ctx, const struct nat_tuple *to, __u32 device,
						    __u8 version, __u8 protocol, __u32 now)
{
	__u64 hash = ((to->daddr[0] | (__u64)to->daddr[3] << 32) ^ device) * 0x9e3779b97f4a7c15ULL;
	__u32 place = hash >> 54 & (NAT_HOPS - 1); /* the upper bits, in which all others have a say */
	struct nat_way *way = nat_ways.lookup(&place);
	if (!way || nat_way_holds(way, to->daddr, device, now))
		return way;
	bool another = way->device != device || way->address[0] != to->daddr[0] || way->address[1] != to->daddr[1] ||
		       way->address[2] != to->daddr[2] || way->address[3] != to->daddr[3];
	if (another) {
		__builtin_memcpy(way->address, to->daddr, 16);
		way->device = device;
		way->shown = now;
	}
	nat_way_ask(ctx, way, to, device, version, protocol);
	way->checked = now ? now : 1;
	return way;
}

/* May the packet go by the addresses that are known? If not the kernel finds its neighbour, and every two seconds it does so all the same, so
 * that it notices when that is gone. */
static __always_inline bool nat_way_ready(struct nat_way *way, __u32 now)
{
	if (way->ready && now - way->shown <= HOP_SHOWN)
		return true;
	if (HOOK_OPENS_IP) /* on XDP the tc program is left to do that */
		way->shown = now;
	return false;
}

/* Read the address of a device that a packet of that version may have. False if it has none. */
static __always_inline bool nat_device_address(const struct nat_device *device, __u8 version, __be32 *address)
{
	if (version == 6) {
		__builtin_memcpy(address, device->address6, 16);
	} else {
		address[0] = device->address4;
		address[1] = address[2] = address[3] = 0;
	}
	return address[0] | address[1] | address[2] | address[3];
}
