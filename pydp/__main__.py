# SPDX-License-Identifier: Apache-2.0
"""`python -m pydp`."""

from pydp.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
