// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What stage nat knows of devices, services and backends, and what it counts. Flows are in flows.h.

enum nat_limit {
	NAT_PORTS = 256, /* ports of an instance */
	NAT_PLACES = 4096, /* places in the table of devices */
	NAT_RULES = 64, /* rules about sources */
	NAT_FRONTENDS = 1048576, /* frontends of all services */
	NAT_SLOTS = 4194304, /* places that point to backends */
	NAT_BACKENDS = 65536, /* backends of all services */
	NAT_SERVICES = 65536, /* services that are counted */
	NAT_FLOWS = 262144, /* flows that are known at a time, as net.netfilter.nf_conntrack_max */
	NAT_WAYS = 8, /* places of a bucket */
	NAT_HOPS = 1024, /* destinations of which a CPU keeps the next hop */
	NAT_CLIENTS = 262144, /* clients of services with affinity */
	NAT_PIECES = 16384, /* packets in fragments whose first one was seen */
	NAT_HINT_BITS = 24, /* of a hint that are a backend's number; the others are how many there are */
};

enum nat_port_flag {
	NAT_PORT_PRESENT = 1,
	NAT_PORT_LOOSE = 2, /* takes packets from sources that are reached by other devices (rp_filter is not strict) */
	NAT_PORT_BRIDGE = 4, /* a bridge: what one of its own ports sends to another one does not pass here */
};

/* A port by slot. */
struct nat_port {
	__u64 mac; /* its own address, first byte lowest */
	__u64 other; /* that of the bridge it belongs to, or its own again */
	__u32 ifindex;
	__u32 device; /* what packets come in by for the routing: its bridge, or itself */
	__u32 flags; /* enum nat_port_flag */
	__u32 pad;
};

enum nat_device_flag {
	NAT_DEVICE_PORT = 1, /* one of the instance's ports: programs run there */
	NAT_DEVICE_PEER = 2, /* a veth whose peer may be handed frames at once */
	NAT_DEVICE_XDP = 4, /* takes frames that XDP redirects */
};

/* A device of this host that packets may leave by, at the place of its ifindex. */
struct nat_device {
	__u32 ifindex; /* 0 for an empty place */
	__u32 flags; /* enum nat_device_flag */
	__be32 address4; /* its first global address, 0 for none */
	__be32 address6[4];
	__u32 mtu;
	__u64 mac; /* first byte lowest */
};

/* A rule about sources: what is behind PREFIX gets another address when it leaves. */
struct nat_rule {
	__be32 address[4]; /* of the prefix; IPv4 in the first word */
	__be32 mask[4];
	__be32 to[4]; /* the new source, 0 for that of the device it leaves by */
	__u32 device; /* ifindex it holds for, 0 for all ports */
	__u32 version; /* 4 or 6; 0: no more rules */
};

/* What clients speak to. */
struct nat_name {
	__be32 address[4]; /* IPv4 in the first word; 0 for every address of this host */
	__be16 port;
	__u8 protocol;
	__u8 version; /* 4 or 6, with NAT_NAME_HOST for clients on this host */
};

enum nat_name_flag {
	NAT_NAME_HOST = 128,
};

enum nat_frontend_flag {
	NAT_FRONTEND_AFFINITY = 1, /* a client stays with its backend */
	NAT_FRONTEND_CONSISTENT =
		2, /* the slot follows from the flow's addresses alone (Maglev): on every machine alike */
	NAT_FRONTEND_MASQUERADE = 4, /* backends see this host as the client */
	NAT_FRONTEND_DSR = 8, /* backends answer the client themselves: what is for them is sent in IPIP */
	NAT_FRONTEND_REDIRECT = 16, /* backends have no address: the host's own is meant */
	NAT_FRONTEND_ELSEWHERE = 32, /* without slots, since only backends on other nodes could answer */
	NAT_FRONTEND_HOST = 64, /* clients on this host have another, under its name with NAT_NAME_HOST */
};

struct nat_frontend {
	__u32 service; /* its number */
	__u32 first; /* of its slots */
	__u32 count; /* of its slots; 0: nobody answers */
	__u32 flags; /* enum nat_frontend_flag */
	__u32 affinity; /* ticks (16.8 ms) for which a client stays where it was */
	__u32 row; /* number plus one of the first slot's backend if those of the others count up from it, else 0 */
};

enum nat_backend_flag {
	NAT_BACKEND_PRESENT = 1,
	NAT_BACKEND_DRAINING = 2, /* gets no new connections; those of UDP move on at once */
	NAT_BACKEND_MOVE = 4, /* what becomes of connections when it is over: they go to another backend */
	NAT_BACKEND_RESET = 8, /* or they are reset */
};

struct nat_backend {
	__be32 address[4]; /* IPv4 in the first word */
	__be16 port;
	__u8 version; /* 4 or 6 */
	__u8 flags; /* enum nat_backend_flag */
	__u32 generation; /* changes when the number is given to another backend */
	__u32 service; /* its number */
	__u32 deadline; /* tick at which draining is over; 0 for never */
};

/* What went to and came from a backend on one CPU: a line of the cache. */
struct nat_count {
	__u64 sent_packets; /* to the backend */
	__u64 sent_bytes;
	__u64 received_packets;
	__u64 received_bytes;
	__u64 flows; /* connections begun */
	__u64 owner; /* generation of the backend whose these are */
	__u64 pad[2];
};

enum nat_failure {
	NAT_FAILURE_BACKEND = 0, /* no backend */
	NAT_FAILURE_FULL = 1, /* no room for the connection */
	NAT_FAILURE_EXHAUSTED = 2, /* no free port for its source */
	NAT_FAILURE_ENDED = 3, /* its backend has gone */
	NAT_FAILURES = 4,
};

/* What went wrong with a service, by enum nat_failure. */
struct nat_failed {
	__u64 count[4];
};

enum nat_event {
	NAT_EVENT_CREATED = 0, /* flows begun */
	NAT_EVENT_EXPIRED = 1, /* flows whose time was over, found when room was needed */
	NAT_EVENT_EVICTED = 2, /* live flows, not assured or ending, that had to go for a new one */
	NAT_EVENT_FULL = 3, /* flows that found no room */
	NAT_EVENT_EXHAUSTED = 4, /* flows that found no free port */
	NAT_EVENT_LATE = 5, /* another CPU was quicker */
	NAT_EVENT_PICKED_UP = 6, /* connections that were there before */
	NAT_EVENT_MOVED = 7, /* flows that went from a backend that is gone to another one */
	NAT_EVENT_RESET = 8, /* connections reset since their backend has gone */
	NAT_EVENTS = 9,
};

/* A client of a service. */
struct nat_client {
	__be32 address[4];
	__u32 service;
};

struct nat_chosen {
	__u32 backend; /* its number plus one */
	__u32 generation;
	__u32 seen; /* tick of its last connection */
};

/* A packet in fragments. */
struct nat_piece {
	__be32 saddr[4];
	__be32 daddr[4];
	__be32 id;
	__u8 protocol;
	__u8 version;
	__u8 egress; /* seen on the way out */
	__u8 pad;
};

struct nat_whole {
	__u32 flow; /* number of the record */
	__u32 way; /* direction in that flow */
	__u32 seen; /* tick */
	__u32 pad;
};

/* The next hop to a destination. */
struct nat_way {
	__be32 address[4];
	__u32 device; /* what packets for it came in by */
	__u32 checked; /* when the kernel was asked, in ticks; 0 for never */
	__u32 shown; /* when it last got a packet */
	__u32 ifindex; /* 0: not to be forwarded, the stack is to have it */
	__u16 mtu;
	__u8 ready; /* the addresses are known */
	__u8 pad;
	struct ethernet header; /* towards it, but for the ethertype */
};

/* Written by Python, at attach. Index: slot. */
BPF_TABLE("array", __u32, struct nat_port, nat_ports, NAT_PORTS);
/* Written by Python, at attach. By the lower bits of their ifindex. */
BPF_TABLE("array", __u32, struct nat_device, nat_devices, NAT_PLACES);
/* Written by Python, at attach. In order, ended by an empty one. */
BPF_TABLE("array", __u32, struct nat_rule, nat_rules, NAT_RULES);
/* Written by Python, at attach. Addresses of this host, with port and protocol 0. */
BPF_F_TABLE("hash", struct nat_name, __u32, nat_locals, NAT_PLACES, BPF_F_NO_PREALLOC);
/* Written by Python while running: one value is changed at once. Not preallocated, so that what a CPU reads stays as it is. */
BPF_F_TABLE("hash", struct nat_name, struct nat_frontend, nat_frontends, NAT_FRONTENDS, BPF_F_NO_PREALLOC);
/* Written by Python while running. By a hash of a frontend's name, where its backends begin and how many there are, as `row` has it: so they can be
 * read while the frontend is looked for. 0, what is out of date, and another frontend's do no harm. It and the next two may be mapped: so Python
 * reads them at once. */
BPF_F_TABLE("array", __u32, __u32, nat_hints, 1, BPF_F_MMAPABLE);
/* Written by Python while running. By port in host's order: for how many services it is a port of every address of this host. */
BPF_F_TABLE("array", __u32, __u32, nat_wild, 65536, BPF_F_MMAPABLE);
/* Written by Python while running: numbers of backends, in runs that only a frontend written later points to. */
BPF_F_TABLE("array", __u32, __u32, nat_slots, NAT_SLOTS, BPF_F_MMAPABLE);
/* Written by Python while running. Index: number of the backend. */
BPF_F_TABLE("array", __u32, struct nat_backend, nat_backends, NAT_BACKENDS, IN_LINES);

/* Written by the datapath. Index: number of the backend times the number of CPUs, plus that of the CPU. No per-CPU array: there the pointer to the
 * counter is in one line that nobody has at hand, and the counter in another. */
BPF_F_TABLE("array", __u32, struct nat_count, nat_counts, NAT_BACKENDS, IN_LINES);
/* Written by the datapath. Index: number of the service. */
BPF_TABLE("percpu_array", __u32, struct nat_failed, nat_failures, NAT_SERVICES);
/* Written by the datapath. Index: enum nat_event. */
BPF_TABLE("percpu_array", __u32, __u64, nat_events, NAT_EVENTS);
/* Written by the datapath. */
BPF_TABLE("lru_hash", struct nat_client, struct nat_chosen, nat_clients, NAT_CLIENTS);
/* Written by the datapath. */
BPF_TABLE("lru_hash", struct nat_piece, struct nat_whole, nat_pieces, NAT_PIECES);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct nat_way, nat_ways, NAT_HOPS);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct clock, nat_clocks, 1);
