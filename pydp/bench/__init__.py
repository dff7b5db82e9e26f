# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: the same traffic by the kernel's own path, by pydp, and by the bare hook, in interleaved blocks.

A *scenario* sends one kind of traffic over several *paths* and says which of them are to be compared (scenarios.py).
A *block* measures every path twice, forwards and backwards (blocks.py); only ratios within a block are used
(statistics.py), since on a shared machine nothing else can be believed.
"""
