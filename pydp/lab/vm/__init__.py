# SPDX-License-Identifier: Apache-2.0
"""Other kernels: Debian's, booted in QEMU on a copy-on-write view of this machine's own files.

    (kernel,) = find_kernels(["6.1"])
    (outcome,) = run([Guest("6.1", kernel, ["uname", "-r"])])

A guest sees the whole root file system of this machine, read-only with a tmpfs on top, so the checkout, its virtual
environment and bcc are inside. What it writes below $PYDP_LAB_RESULTS comes back. Nothing of it stays.
"""

from pydp.lab.vm.acceleration import choose_acceleration
from pydp.lab.vm.guests import Guest, Outcome, Settings
from pydp.lab.vm.kernels import Kernel, cached_kernels, find_kernels
from pydp.lab.vm.plan import Plan, PlannedNode, read_plan
from pydp.lab.vm.running import run

__all__ = [
    "Guest",
    "Kernel",
    "Outcome",
    "Plan",
    "PlannedNode",
    "Settings",
    "cached_kernels",
    "choose_acceleration",
    "find_kernels",
    "read_plan",
    "run",
]
