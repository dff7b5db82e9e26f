# SPDX-License-Identifier: Apache-2.0
"""The command line: `main` finds the verb, each verb is a module with ``configure(parser)`` and ``run(args)``."""
