// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What stage nat knows: its records and maps.

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

enum nat_class {
	NAT_CLASS_FREE = 0,
	NAT_CLASS_BUSY = 1, /* a CPU is writing the record */
	NAT_CLASS_NEW = 2, /* not assured: goes first when room is needed */
	NAT_CLASS_ASSURED = 3, /* both sides were heard, as nf_conntrack wants it: never goes before its time */
	NAT_CLASS_CLOSING = 4, /* was assured, and is ending: goes when no new one is left */
};

enum nat_state {
	NAT_STATE_NONE = 0, /* no state: ICMP and other protocols; UDP has enum nat_udp */
	NAT_STATE_SYN_SENT = 1,
	NAT_STATE_SYN_RECV = 2,
	NAT_STATE_ESTABLISHED = 3,
	NAT_STATE_FIN_WAIT = 4, /* one side has ended */
	NAT_STATE_CLOSE_WAIT = 5, /* the other side has seen that */
	NAT_STATE_LAST_ACK = 6, /* both sides have ended */
	NAT_STATE_TIME_WAIT = 7,
	NAT_STATE_CLOSE = 8, /* reset */
	NAT_STATES = 9,
};

/* What a flow of UDP has in place of a state; 0 before its first packet is noted. */
enum nat_udp {
	NAT_UDP_OLD = 1, /* began more than two seconds ago */
	NAT_UDP_YOUNG = 128, /* began at the instant that is in the lower bits */
};

enum nat_flow_flag {
	NAT_FLOW_REPLIED = 1, /* the responder was heard */
	NAT_FLOW_SOURCE = 2, /* the source is translated on the way to the responder */
	NAT_FLOW_DESTINATION = 4, /* the destination is */
	NAT_FLOW_HOST = 8, /* the initiator is this host */
	NAT_FLOW_FIN_ORIGINAL = 16, /* the initiator has ended */
	NAT_FLOW_FIN_REPLY = 32, /* the responder has ended */
	NAT_FLOW_PICKED_UP = 64, /* was there before we were */
	NAT_FLOW_DSR = 128, /* the responder answers by itself */
};

/* A conntrack entry. A packet that matches `original` leaves as the inverse of `reply`, and the other way round, as nf_conntrack has it. */
struct nat_flow {
	__u64 life; /* enum nat_class << 32 | tick up to which it lives; 0 for a free record */
	struct nat_tuple original;
	struct nat_tuple reply;
	__u8 protocol;
	__u8 version; /* 4 or 6 */
	__u8 state; /* enum nat_state */
	__u8 flags; /* enum nat_flow_flag */
	__u32 backend; /* its number plus one, 0 for none */
	__u32 generation; /* of the backend when it was chosen */
	__u32 device; /* of a flow of this host: ifindex that it left by, by which replies come in */
	__u64 packets[2]; /* by direction, with PYDP_NAT_ACCOUNTING */
	__u64 bytes[2];
};

/* Where flows are: each stands under both its tuples. Hash above, number of the record plus one below; 0 for an empty place. */
struct nat_bucket {
	__u64 place[8];
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

/* What a flow is going to be. */
struct nat_plan {
	__u32 service; /* its number plus one, 0 for none */
	__u32 backend; /* its number plus one, 0 for none */
	__u32 generation; /* of the backend */
	__u32 stale; /* number plus one of a record that is over and has one of the tuples, 0 for none */
	__u32 flags; /* enum nat_flow_flag */
	__u32 ours; /* the source that it gets is an address of this host: no socket must have its port */
	__u32 moved; /* it goes on for one whose backend has gone */
	__u32 noted; /* number plus one of its record, 0 before it has one */
	__u32 pad;
	__u64 life; /* what was seen of the stale record */
};

/* Which packets a program is for. */
enum nat_kind {
	NAT_PLAIN = 0, /* of flows that are known: the program that is attached */
	NAT_BEGIN = 1, /* those that may begin a flow */
	NAT_ERROR = 2, /* ICMP errors */
	NAT_ANSWER = 3, /* those that are answered */
	NAT_KINDS = 4,
};

enum nat_task_flag {
	NAT_TASK_SOURCE = 1, /* its source changes */
	NAT_TASK_DESTINATION = 2, /* its destination changes */
	NAT_TASK_HOME = 4, /* it is a reply to a client on this host */
};

/* How a packet leaves once it is translated. */
enum nat_exit {
	NAT_EXIT_NONE = 0, /* it is not translated */
	NAT_EXIT_STACK = 1, /* the stack goes on with it */
	NAT_EXIT_BACK = 2, /* the stack gets it as if it had come in by a device */
	NAT_EXIT_ROUTED = 3, /* out of a device, to the next hop that the kernel finds */
	NAT_EXIT_DIRECT = 4, /* out of a device, to a next hop that is known */
};

/* What is to be done with a packet of a known flow. */
struct nat_task {
	struct ethernet header; /* towards the next hop */
	__u32 flags; /* enum nat_task_flag */
	__u32 exit; /* enum nat_exit */
	__u32 device; /* ifindex to leave by */
	__u32 peer; /* its peer may be handed the frame at once */
	__u32 seen; /* a program of this instance sees the packet as it leaves there */
	__u32 longest; /* bytes of a frame that may leave there */
	__u32 mtu; /* not 0: the packet is too long for that */
	__u32 verdict;
};

/* What a CPU is about: more than there is room for on the stack. It also keeps the verifier from following each combination of what was found
 * to the end of the program: of what it reads here it knows nothing. */
struct nat_scratch {
	struct tuple_view view;
	struct tuple_view quoted; /* what an ICMP error is about */
	struct nat_tuple key; /* by which the flow is found */
	struct nat_tuple to; /* what the packet is to leave as */
	struct nat_tuple quoted_to;
	struct nat_tuple reply; /* of a flow that begins */
	struct nat_task task;
	struct nat_plan plan;
	__u32 run; /* how often a port was looked for */
	__u32 next; /* where that goes on */
	__u32 look; /* how often a record was looked for */
	__u32 reset; /* its connection is to be reset */
	__u64 hash; /* of the packet's tuple */
	__u64 reply_hash;
	struct nat_frontend frontend; /* that it is addressed to, if it is */
	__u32 served; /* it is */
	__u32 pad;
	struct nat_name name;
	struct nat_client client;
	struct nat_piece piece;
};

/* Where a packet is seen. */
struct nat_place {
	struct nat_port *port; /* it comes in by this one, or leaves by it */
	__u32 came_by; /* on the way out: ifindex it came in by, 0 for a packet of this host */
	__u32 now; /* in ticks */
	__u64 seed;
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
 * read while the frontend is looked for. 0, what is out of date, and another frontend's do no harm. */
BPF_TABLE("array", __u32, __u32, nat_hints, 1);
/* Written by Python while running. By port in host's order: for how many services it is a port of every address of this host. */
BPF_TABLE("array", __u32, __u32, nat_wild, 65536);
/* Written by Python while running: numbers of backends, in runs that only a frontend written later points to. */
BPF_TABLE("array", __u32, __u32, nat_slots, NAT_SLOTS);
/* Written by Python while running. Index: number of the backend. */
BPF_F_TABLE("array", __u32, struct nat_backend, nat_backends, NAT_BACKENDS, IN_LINES);

/* Written by the datapath. */
BPF_F_TABLE("array", __u32, struct nat_flow, nat_flows, NAT_FLOWS, IN_LINES);
/* Written by the datapath. Twice as many places as flows have tuples. */
BPF_F_TABLE("array", __u32, struct nat_bucket, nat_index, NAT_FLOWS / 2, IN_LINES);
/* Written by the datapath: where each CPU goes on to look for a free record. */
BPF_TABLE("percpu_array", __u32, __u32, nat_hand, 1);
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
BPF_TABLE("percpu_array", __u32, struct nat_scratch, nat_scratches, 1);
/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct clock, nat_clocks, 1);
/* Written by Python, at attach: the programs of the same port that go on with a packet. Index: enum nat_kind. */
BPF_PROG_ARRAY(nat_tails, NAT_KINDS);
