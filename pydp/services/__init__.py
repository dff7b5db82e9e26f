# SPDX-License-Identifier: Apache-2.0
"""Services of mode nat: what they are, where they are kept, and how the datapath's maps follow from them.

Their room is between the verbs and the datapath: cli -> services -> datapath -> modes -> model.
"""
