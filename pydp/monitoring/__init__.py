# SPDX-License-Identifier: Apache-2.0
"""Prometheus and Grafana for pydp's exporter.

prometheus/     prometheus.yml for a lab, recording rules, alerts
grafana/        provisioning, and dashboards that are generated: `python -m pydp.monitoring`
dashboards/     what they are generated from
"""

from __future__ import annotations

from pathlib import Path

PROMETHEUS = Path(__file__).parent / "prometheus"
GRAFANA = Path(__file__).parent / "grafana"
