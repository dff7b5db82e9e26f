# SPDX-License-Identifier: Apache-2.0
"""Compile, load, attach and pin eBPF programs from Python, with bcc as the compiler."""
