# SPDX-License-Identifier: Apache-2.0
"""What drivers can do with XDP, as they declare it (generic netlink family "netdev", Linux 6.3)."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from enum import IntFlag

from pydp.errors import PydpError

_CMD_DEV_GET = 1
_KNOWN = 0x7F


class XdpFeature(IntFlag):
    """enum netdev_xdp_act. A driver that declares nothing may still run XDP in generic mode."""

    BASIC = 1
    REDIRECT = 2
    NDO_XMIT = 4  # takes frames that others redirect to it
    XSK_ZEROCOPY = 8
    HW_OFFLOAD = 16
    RX_SG = 32  # frames in several buffers (frags): a large MTU
    NDO_XMIT_SG = 64

    def names(self) -> tuple[str, ...]:
        """The kernel's names: "basic", "ndo-xmit", ..."""
        return tuple(str(bit.name).lower().replace("_", "-") for bit in XdpFeature if bit in self)


def read_xdp_features() -> Mapping[int, XdpFeature] | None:
    """XDP features by ifindex of every device in the current namespace; None on a kernel that does not tell (before
    6.3).
    """
    from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, genlmsg
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.generic import GenericNetlinkSocket

    class Device(genlmsg):  # type: ignore[misc]
        """A message of NETDEV_CMD_DEV_GET."""

        nla_map = (
            ("NETDEV_A_DEV_UNSPEC", "none"),
            ("NETDEV_A_DEV_IFINDEX", "uint32"),
            ("NETDEV_A_DEV_PAD", "hex"),
            ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
        )

    question = Device()
    question["cmd"] = _CMD_DEV_GET
    question["version"] = 1
    with GenericNetlinkSocket() as sock:
        sock.asyncore.module_err_level = "debug"  # an older kernel is no error
        try:
            sock.bind("netdev", Device)
            answers = sock.nlm_request(question, msg_type=sock.prid, msg_flags=NLM_F_REQUEST | NLM_F_DUMP)
            bits = {
                msg.get_attr("NETDEV_A_DEV_IFINDEX"): msg.get_attr("NETDEV_A_DEV_XDP_FEATURES", 0) for msg in answers
            }
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.EOPNOTSUPP):
                return None
            raise PydpError(f"cannot read XDP features: {error}") from error
    return {ifindex: XdpFeature(value & _KNOWN) for ifindex, value in bits.items()}
