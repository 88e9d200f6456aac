"""What the dashboards are made of: panels in the project's manner, laid out in rows."""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Protocol, Self

from grafana_foundation_sdk.builders import bargauge, common, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus as promql
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as shape
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as promql_model

WIDTH = 24
"""Columns of Grafana's grid."""

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "pd-autoscaler"

Steps = Sequence[tuple[float | None, str]]
"""Colours from a value upwards; None begins them."""

CALM: Steps = ((None, "green"), (1, "red"))
"""For what should be nought."""


class Board:
    """A dashboard under construction: rows of panels, numbered as they come."""

    def __init__(self, title: str, *, uid: str, description: str) -> None:
        self._panels = 0
        self._board = (
            build.Dashboard(title)
            .uid(uid)
            .description(description)
            .tags([TAG])
            .time("now-1h", "now")
            .refresh("10s")
            .timezone("browser")
            .tooltip(model.DashboardCursorSync.CROSSHAIR)
            .link(
                build.DashboardLink("pd-autoscaler")
                .type(model.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .include_vars(True)
                .keep_time(True)
            )
            .with_variable(
                build.DatasourceVariable("datasource").label("Data source").type("prometheus")
            )
            .with_variable(
                build.QueryVariable("instance")
                .label("Controller")
                .datasource(SOURCE)
                .query("label_values(pd_autoscaler_cycles_total, instance)")
                .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
                .sort(model.VariableSort.ALPHABETICAL_ASC)
            )
        )

    def row(self, title: str, *panels: model.Panel) -> None:
        """Add a row of panels below what is there."""
        self._board.with_row(build.Row(title).id(self._next()))
        for panel in panels:
            panel.id_val = self._next()
            self._board.with_panel(_Built(panel))

    def built(self) -> model.Dashboard:
        """Return the dashboard as it stands."""
        return self._board.build()

    def _next(self) -> int:
        self._panels += 1
        return self._panels


def asked(expr: str, legend: str, *, is_table: bool = False) -> promql.Dataquery:
    """Return a query of the chosen controller; an instant one for a table.

    `expr` names this project's metrics without their prefix and the controller's selector, which
    are put in.
    """
    query = promql.Dataquery().expr(_whole(expr)).legend_format(legend).datasource(SOURCE)
    if is_table:
        return query.instant().format(promql_model.PromQueryFormat.TABLE)
    return query.range()


def _whole(expr: str) -> str:
    """Write `@name{labels}` out: prefix, and the controller that the dashboard is set to."""

    def written(found: re.Match[str]) -> str:
        labels = ['instance="$instance"', *filter(None, [found[2]])]
        return f"pd_autoscaler_{found[1]}{{{', '.join(labels)}}}"

    return re.sub(r"@(\w+)(?:\{([^}]*)\})?", written, expr)


def mean(histogram: str) -> tuple[str, str]:
    """Return the query for a histogram's mean, which needs no buckets, with its legend."""
    total, count = (f"sum(rate(@{histogram}_{of}[$__rate_interval]))" for of in ("sum", "count"))
    return (f"{total} / ({count} > 0)", "mean")


def quantiles(histogram: str, *, by: str = "", where: str = "") -> list[tuple[str, str]]:
    """Return queries for the median and the 95th percentile of a histogram, with their legends.

    `by` is a label to tell apart, `where` a selector of labels.
    """
    labels = f"le, {by}" if by else "le"
    selector = f"{{{where}}}" if where else ""
    legend = f"{{{{{by}}}}} " if by else ""
    rate = f"sum by ({labels}) (rate(@{histogram}_bucket{selector}[$__rate_interval]))"
    return [(f"histogram_quantile({q}, {rate})", f"{legend}p{q * 100:.0f}") for q in (0.5, 0.95)]


def number(
    title: str, told: str, expr: str, *, unit: str, steps: Steps, width: int = 4
) -> model.Panel:
    """Return one number, coloured by its thresholds."""
    panel = (
        stat.Panel()
        .color_mode(shape.BigValueColorMode.BACKGROUND)
        .graph_mode(shape.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    return _dressed(panel, title, told, [(expr, "")], unit=unit, steps=steps, size=(width, 4))


def word(title: str, told: str, expr: str, legend: str, *, width: int = 4) -> model.Panel:
    """Return the name of the one series that the query finds."""
    panel = (
        stat.Panel()
        .color_mode(shape.BigValueColorMode.NONE)
        .graph_mode(shape.BigValueGraphMode.NONE)
        .text_mode(shape.BigValueTextMode.NAME)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    steps: Steps = ((None, "text"),)
    return _dressed(panel, title, told, [(expr, legend)], unit="none", steps=steps, size=(width, 4))


def curves(
    title: str,
    told: str,
    queries: Sequence[tuple[str, str]],
    *,
    unit: str,
    steps: Steps | None = None,
    is_stacked: bool = False,
    width: int = 12,
) -> model.Panel:
    """Return curves over time; `steps` draws its thresholds as lines."""
    panel = (
        timeseries.Panel()
        .min(0)
        .line_width(1)
        .fill_opacity(60 if is_stacked else 8)
        .show_points(shape.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(shape.LegendDisplayMode.LIST)
            .placement(shape.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(shape.TooltipDisplayMode.MULTI))
    )
    if is_stacked:
        panel.stacking(common.StackingConfig().mode(shape.StackingMode.NORMAL))
    if steps is not None:
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(shape.GraphThresholdsStyleMode.DASHED)
        )
    dressing = steps or ((None, "green"),)
    return _dressed(panel, title, told, queries, unit=unit, steps=dressing, size=(width, 8))


def bars(title: str, told: str, expr: str, legend: str, *, unit: str, steps: Steps) -> model.Panel:
    """Return one bar for each series, as it is now."""
    panel = (
        bargauge.Panel()
        .min(0)
        .orientation(shape.VizOrientation.HORIZONTAL)
        .display_mode(shape.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    return _dressed(panel, title, told, [(expr, legend)], unit=unit, steps=steps, size=(12, 8))


def timeline(
    title: str,
    told: str,
    expr: str,
    legend: str,
    *,
    values: Mapping[int, tuple[str, str]],
    width: int = 12,
) -> model.Panel:
    """Return a strip over time for each series; `values` gives numbers a word and a colour."""
    panel = statetimeline.Panel().merge_values(True).mappings([_mapping(values)])
    steps: Steps = ((None, "text"),)
    return _dressed(panel, title, told, [(expr, legend)], unit="none", steps=steps, size=(width, 8))


def matrix(
    title: str,
    told: str,
    expr: str,
    *,
    row: str,
    column: str,
    values: Mapping[int, tuple[str, str]],
) -> model.Panel:
    """Return a heat map of one label against another, as it is now."""
    coloured = shape.TableColoredBackgroundCellOptions(
        mode=shape.TableCellBackgroundDisplayMode.BASIC
    )
    panel = (
        table.Panel()
        .cell_options(coloured)
        .align(shape.FieldTextAlignment.CENTER)
        .mappings([_mapping(values)])
        .with_transformation(
            model.DataTransformerConfig(
                id_val="groupingToMatrix",
                options={
                    "rowField": row,
                    "columnField": column,
                    "valueField": "Value",
                    "emptyValue": "empty",
                },
            )
        )
        # The column of names has the name that the transformation gives it.
        .override_by_name(
            f"{row}\\{column}",
            [model.DynamicConfigValue("custom.cellOptions", shape.TableAutoCellOptions())],
        )
        .with_target(asked(expr, "", is_table=True).ref_id("A"))
    )
    steps: Steps = ((None, "text"),)
    return _dressed(panel, title, told, [], unit="none", steps=steps, size=(WIDTH, 10))


class _Dressable(Protocol):
    """What the builders of all kinds of panel share; the library has no name for it."""

    def build(self) -> model.Panel: ...
    def title(self, title: str) -> Self: ...
    def description(self, description: str) -> Self: ...
    def datasource(self, datasource: model.DataSourceRef) -> Self: ...
    def height(self, h: int) -> Self: ...
    def span(self, w: int) -> Self: ...
    def unit(self, unit: str) -> Self: ...
    def thresholds(self, thresholds: Builder[model.ThresholdsConfig]) -> Self: ...
    def with_target(self, target: Builder[variants.Dataquery]) -> Self: ...


def _dressed(
    panel: _Dressable,
    title: str,
    told: str,
    queries: Sequence[tuple[str, str]],
    *,
    unit: str,
    steps: Steps,
    size: tuple[int, int],
) -> model.Panel:
    """Build a panel with what every panel has; a query is an expression and its legend."""
    colours = [model.Threshold(value=value, color=colour) for value, colour in steps]
    panel.title(title).description(told).datasource(SOURCE)
    panel.unit(unit).span(size[0]).height(size[1])
    panel.thresholds(build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(colours))
    for letter, (expr, legend) in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(asked(expr, legend).ref_id(letter))
    return panel.build()


class _Built(Builder[model.Panel]):
    """A panel that is built already, for a library that takes builders alone."""

    def __init__(self, panel: model.Panel) -> None:
        self._panel = panel

    def build(self) -> model.Panel:
        """Return it."""
        return self._panel


def _mapping(values: Mapping[int, tuple[str, str]]) -> model.ValueMap:
    """Return Grafana's table of words and colours for numbers."""
    return model.ValueMap(
        options={
            str(value): model.ValueMappingResult(text=text, color=colour, index=place)
            for place, (value, (text, colour)) in enumerate(values.items())
        }
    )
