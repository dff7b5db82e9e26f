# SPDX-License-Identifier: Apache-2.0
"""The kernel's path beside eBPF's, with the traffic that there is.

What is compared (subject.py) has its programs replaced by ones that leave packets to the kernel when told to
(bpf_src/lib/compare.h). They are told so by turns (turns.py), all packets for a while or always some flows, counters
are read before and after each turn (readings.py), and what was read is judged as benchmarks are (results.py): by ratios
within blocks of turns, with intervals.
"""
