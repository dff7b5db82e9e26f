# SPDX-License-Identifier: Apache-2.0
"""From a dashboard as data to Grafana's JSON, by grafana-foundation-sdk."""

from __future__ import annotations

import itertools
import json
import warnings

with warnings.catch_warnings():
    # It would rather have the second format of dashboards, which no Grafana before 12 loads. This one all do.
    warnings.filterwarnings("ignore", "Prefer using dashboardv2", DeprecationWarning)
    from grafana_foundation_sdk.builders import common as options
    from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import common
    from grafana_foundation_sdk.models import dashboard as model

from pydp.monitoring.dashboards.plots import Board, Plot

_SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH = 24
_NOT_OURS = ("auto", "auto_count", "auto_min")  # of another kind of variables, which the SDK gives to all
_HEIGHT, _LOW = 8, 5
_Panel = stat.Panel | timeseries.Panel


def text_of(board: Board) -> str:
    """The JSON text, the same for the same board."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags(["pydp"])
        .time("now-30m", "now")
        .refresh("10s")
        .timezone("browser")
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(dashboard.DashboardLink("pydp").type(model.DashboardLinkType.DASHBOARDS).tags(["pydp"]).keep_time(True))
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Data source"))
    )
    for name, query in board.variables.items():
        built.with_variable(_variable(name, query))
    ids = itertools.count(1)
    for title, plots in board.rows.items():
        built.with_row(dashboard.Row(title).id(next(ids)))
        for plot in plots:
            built.with_panel(_panel(plot).id(next(ids)))
    found = json.loads(JSONEncoder().encode(built.build()))
    for variable in found["templating"]["list"]:
        for key in _NOT_OURS:
            variable.pop(key, None)
    return json.dumps(found, sort_keys=True, indent=2) + "\n"


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .query(query)
        .datasource(_SOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def _panel(plot: Plot) -> _Panel:
    panel = _numbers() if plot.latest else _curves(plot)
    panel.title(plot.title).description(plot.note).datasource(_SOURCE).unit(plot.unit).min(0)
    panel.span(min(plot.width, _WIDTH)).height(_LOW if plot.latest else _HEIGHT)
    if plot.top is not None:
        panel.max(plot.top)
    for number, (legend, query) in enumerate(plot.queries.items()):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + number))
        panel.with_target(target.instant() if plot.latest else target.range())
    return panel


def _numbers() -> stat.Panel:
    panel = stat.Panel().graph_mode(common.BigValueGraphMode.NONE).color_mode(common.BigValueColorMode.NONE)
    return panel.reduce_options(options.ReduceDataOptions().calcs(["lastNotNull"]).values(False))


def _curves(plot: Plot) -> timeseries.Panel:
    legend = options.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST).show_legend(True)
    legend.placement(common.LegendPlacement.BOTTOM)
    tooltip = options.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    panel = timeseries.Panel().legend(legend).tooltip(tooltip).line_width(1).show_points(common.VisibilityMode.NEVER)
    if plot.stacked:
        panel.fill_opacity(30).stacking(options.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    return panel
