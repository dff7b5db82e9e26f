// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What a program has at hand while it is about one packet: what the packet is, which flow it begins or is of, and what is to be done with it.

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
	__u32 began; /* the flow of the packet before was not known */
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

/* Written by the datapath. */
BPF_TABLE("percpu_array", __u32, struct nat_scratch, nat_scratches, 1);
/* Written by Python, at attach: the programs of the same port that go on with a packet. Index: enum nat_kind. */
BPF_PROG_ARRAY(nat_tails, NAT_KINDS);
