# SPDX-License-Identifier: Apache-2.0
"""Metrics for Prometheus: what the datapath counted and, beside it, what the kernel counted on the same devices.

families    every metric: name, meaning, labels
collectors  one per source: what was read -> samples
page        reads all sources at once and makes the page
sources     what the collectors read: descriptors of the datapath, and netlink
supply      descriptors from the process that may open pins to the one that serves
rights      giving up rights for good
web         HTTP
server      `serve`: all of it together
"""
