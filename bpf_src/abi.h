// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Types that both sides know. Python reads them from this text (ebpf/abi.py): structs and enums stand at column 0,
// each member of an enum with the comment that users see.

enum limit {
	VERDICTS = 64, /* verdicts a stage may have, in the counters' index */
	STAGES = 4, /* stages one program may have */
	STAGE_CONSTANTS = 64, /* constants one stage may have */
};

// What a stage decides about a packet. Numbers are part of the interface: append within a class, never reorder.
// The class follows from the number: enum verdict_class.
enum verdict {
	PASS_UNCLAIMED = 0, /* no stage had anything to say */
	FORWARD_PORT = 1, /* sent out of one port */
	FORWARD_ENCAP = 2, /* encapsulated and sent to a VTEP or peer */
	FORWARD_DECAP = 3, /* decapsulated and sent out of one port */
	FORWARD_REPLY = 4, /* answered: too big for the tunnel, or a request for an address that is known */
	FORWARD_NAT = 5, /* translated and sent out of one device */
	FORWARD_REJECT = 6, /* answered with a refusal: a service without backends, or one whose backend has gone */
	FLOOD_PORTS = 8, /* copied to every port that may have it */
	PASS_ENCAP = 9, /* encapsulated in its place on the way out */
	PASS_DECAP = 10, /* decapsulated and left to the stack, which delivers it */
	PASS_NAT = 11, /* translated and left to the stack, which delivers or routes it, or sends it out */

	PUNT_TRUNCATED = 16, /* headers end before they should */
	PUNT_LINK_LOCAL = 17, /* addressed to the bridge itself (01:80:c2:00:00:0x) */
	PUNT_LOCAL = 18, /* addressed to this host */
	PUNT_UNKNOWN = 19, /* destination not learned yet: the kernel bridge floods it */
	PUNT_GROUP = 20, /* multicast or broadcast: the kernel bridge copies it */
	PUNT_NEW_SOURCE = 21, /* shows the kernel bridge a source that is new, moved or about to age there */
	PUNT_PORT = 22, /* a port in a state or with a flag that is the kernel bridge's business */
	PUNT_FLOOD = 23, /* to be copied by the tc program of the same port */
	PUNT_LENGTH = 24, /* with its VLAN tag longer than XDP may send: for the tc program or the kernel bridge */
	PUNT_ERROR = 25, /* a helper failed */
	PUNT_NEIGHBOUR = 26, /* next hop not resolved, or to be shown to the kernel, which keeps it fresh */
	PUNT_TOO_BIG = 27, /* longer than the path's MTU: fragmented or answered by the kernel */
	PUNT_FRAGMENT = 28, /* part of a packet that the kernel puts together first */
	PUNT_HEADER = 29, /* options, reserved bits, padding or lengths that the kernel judges */
	PUNT_CHECKSUM = 30, /* a checksum that the kernel has to verify or to compute */
	PUNT_ECN = 31, /* congestion was marked outside */
	PUNT_VTEP = 32, /* from no VTEP or peer that is known, or for an unknown VNI or key */
	PUNT_ADDRESS = 33, /* outer destination is not this tunnel's */
	PUNT_TAGGED = 34, /* VLAN tag beside the frame, which belongs inside of it */
	PUNT_ROUTE = 35, /* inner destination is the routing's business */
	PUNT_TTL = 36, /* TTL is used up: the kernel says so to its sender */
	PUNT_PROTOCOL = 37, /* neither IPv4 nor IPv6, or shorter than its header: tc can neither wrap nor unwrap it */
	PUNT_NAT = 38, /* for the tc program of the same port, which can do all that translating it takes */
	PUNT_COMPARE = 39, /* left to the kernel, whose path is being compared (pydp compare) */

	DROP_SOURCE = 40, /* source address is zero or a multicast address */
	DROP_SAME_PORT = 41, /* destination is on the port it came from */
	DROP_ISOLATED = 42, /* both ports are isolated, or private children of one parent */
	DROP_MTU = 43, /* longer than the MTU of the port it would leave by */
	DROP_VLAN_INGRESS = 44, /* port is not a member of the VLAN it came with */
	DROP_VLAN_EGRESS = 45, /* port it would leave by is not a member of its VLAN */
	DROP_PORT_DOWN = 46, /* port it would leave by does not forward */
	DROP_VTEP = 47, /* from no VTEP or peer that is known, or for an unknown VNI or key */
	DROP_SPOOFED = 48, /* inner source address is none of the peer's */
	DROP_INNER = 49, /* inner packet is not what the tunnel carries, or cut short */
	DROP_LOOP = 50, /* would be encapsulated for the host it came from */
	DROP_ECN = 51, /* congestion was marked outside, and the inner packet cannot carry the mark */
	DROP_FULL = 52, /* begins a connection, for which there is no room */
	DROP_PORTS = 53, /* begins a connection, for whose source there is no free port */
	DROP_RACE = 54, /* another CPU was just noting the same connection */
	DROP_ENDED = 55, /* of a connection whose backend has gone */
	DROP_CHECKSUM = 56, /* an ICMP error whose checksum is wrong: what it quotes cannot be translated */
	DROP_ERROR = 57, /* a helper failed when part of the packet was written already */
	DROP_GROUP = 58, /* multicast or broadcast, where only packets for one receiver are routed */
	DROP_PROTOCOL = 59, /* of a protocol that goes no further: where IP is routed, or a pause frame */
	DROP_ELSEWHERE = 60, /* for a service to be answered on this node, with all backends on others */
};

enum verdict_class {
	CLASS_FLOOD = 8, /* verdicts below, but PASS_UNCLAIMED: sent out of one device */
	CLASS_PUNT = 16, /* verdicts from here on: left to the kernel */
	CLASS_DROP = 40, /* verdicts from here on: dropped */
};

// What is written into the code of each port's program when it is loaded, per stage.
enum constant {
	CONSTANT_SLOT = 0, /* index of the port in its instance */
	CONSTANT_SEED = 1, /* random number that the instance's hashes begin with */
	CONSTANT_ROLE = 2, /* enum role of the port */
	CONSTANT_CPUS = 3, /* how many CPUs there can be */
	CONSTANT_OPTIONS = 16, /* from here on what follows from options alone (Traits.written) */
};

// What a port is to its instance.
enum role {
	ROLE_PORT = 0, /* a port like any other: a container, a NIC of the overlay */
	ROLE_UNDERLAY = 1, /* carries what is encapsulated */
	ROLE_COMPANION = 2, /* a tunnel device of the kernel that does what eBPF cannot */
	ROLE_PARENT = 3, /* a device that its children share */
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

// A 64-bit value that the loader writes into this very instruction (ebpf/loader.py): no lookup, and the verifier
// and the JIT see a number. NUMBER must be a literal.
#define CONSTANT(number)                                                                           \
	({                                                                                         \
		__u64 value_;                                                                      \
		asm volatile("%0 = %1 ll" : "=r"(value_) : "i"(0x7d9d5eed00000000ULL + (number))); \
		value_;                                                                            \
	})
#define STAGE_CONSTANT(stage, constant) CONSTANT((stage)*STAGE_CONSTANTS + (constant))
