# SPDX-License-Identifier: Apache-2.0
"""`python -m pydp.monitoring`: write Grafana's dashboards anew from their sources."""

from __future__ import annotations

from pydp.monitoring import GRAFANA
from pydp.monitoring.dashboards import rendered


def main() -> None:
    """Write what has changed, remove what is no more."""
    folder = GRAFANA / "dashboards"
    texts = rendered()
    for path in folder.glob("*.json"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)


if __name__ == "__main__":
    main()
