# SPDX-License-Identifier: Apache-2.0
"""A laboratory of network namespaces: containers on a switch, traffic between them, and captures.

    with Segment(2, kernel_bridge=True) as segment:
        a, b = segment.containers
        ping(a.ns, b.address4)

Everything is a context manager that leaves nothing behind, also after an exception or an interrupt; `sweep` removes
what a killed process could not. It needs root.
"""

from pydp.lab.capture import Capture, Stations, send_frame
from pydp.lab.errors import LabError
from pydp.lab.netns import Namespace, leftovers, sweep
from pydp.lab.nodes import Node, Nodes
from pydp.lab.offload import get_offload, set_offloads
from pydp.lab.stream import NumberedStream, StreamReport
from pydp.lab.tools import IperfResult, RoundTrips, iperf3, request_response, round_trips
from pydp.lab.topology import Container, End, Segment, Veth, poll, wait_up
from pydp.lab.traffic import PingResult, TcpResult, connect_close, ping, tcp_transfer, udp_sizes
from pydp.lab.vxlan import KernelVxlan

__all__ = [
    "Capture",
    "Container",
    "End",
    "IperfResult",
    "KernelVxlan",
    "LabError",
    "Namespace",
    "Node",
    "Nodes",
    "NumberedStream",
    "PingResult",
    "RoundTrips",
    "Segment",
    "Stations",
    "StreamReport",
    "TcpResult",
    "Veth",
    "connect_close",
    "get_offload",
    "iperf3",
    "leftovers",
    "ping",
    "poll",
    "request_response",
    "round_trips",
    "send_frame",
    "set_offloads",
    "sweep",
    "tcp_transfer",
    "udp_sizes",
    "wait_up",
]
