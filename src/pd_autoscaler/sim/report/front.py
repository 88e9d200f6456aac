"""The front: what each policy costs against how much of the service it keeps in time."""

from html import escape
from itertools import groupby

from pd_autoscaler.sim.intervals import Interval
from pd_autoscaler.sim.report import colours
from pd_autoscaler.sim.report.comparison import Comparison, Setting
from pd_autoscaler.sim.report.panels import Figure, Trace, axis_style, base_layout

_HEIGHT_PX = 460


def front(compared: Comparison) -> Figure:
    """Return node-hours against attainment: a point a setting, a policy's settings joined."""
    looks = colours.looks(compared.policies)
    by_policy = sorted(compared.settings, key=lambda setting: setting.policy)
    traces = {
        policy: _trace(list(settings), compared, looks[policy])
        for policy, settings in groupby(by_policy, key=lambda setting: setting.policy)
    }
    return {
        "data": [traces[policy] for policy in compared.policies],
        "layout": {
            **base_layout(_HEIGHT_PX),
            "margin": {"l": 64, "r": 20, "t": 16, "b": 48},
            "hovermode": "closest",
            "xaxis": {**axis_style(), "title": {"text": "node-hours"}},
            "yaxis": {
                **axis_style(),
                "title": {"text": f"attainment of {escape(compared.slo.name)}, %"},
            },
            "shapes": [_target(100 * compared.target)],
            "legend": {"font": {"size": 12}},
        },
    }


def _trace(settings: list[Setting], compared: Comparison, look: colours.Look) -> Trace:
    points = [(setting, setting.figures(compared.slo)) for setting in settings]
    points = [point for point in points if {"node_hours", "both"} <= point[1].keys()]
    points.sort(key=lambda point: point[1]["node_hours"].mean)
    hours = [figures["node_hours"] for _, figures in points]
    attained = [figures["both"] for _, figures in points]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        # Plotly reads markup out of names.
        "name": escape(settings[0].policy),
        "x": [found.mean for found in hours],
        "y": [100 * found.mean for found in attained],
        "error_x": _error(hours, 1.0),
        "error_y": _error(attained, 100.0),
        "text": [escape(setting.params_text or "default parameters") for setting, _ in points],
        "hovertemplate": "%{text}<br>%{x:.4~g} node-hours, %{y:.2f} %",
        "line": {"color": look.colour, "width": 1.5},
        "marker": {"color": look.colour, "symbol": look.symbol, "size": 11},
    }


def _error(found: list[Interval], scale: float) -> dict[str, object]:
    widths = [scale * (interval.half_width or 0.0) for interval in found]
    return {"type": "data", "array": widths, "thickness": 1, "width": 3, "visible": any(widths)}


def _target(percent: float) -> dict[str, object]:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": percent,
        "y1": percent,
        "line": {"color": colours.LIMIT, "width": 1, "dash": "dash"},
        "label": {
            "text": f"owed: {percent:g} %",
            "textposition": "start",
            "yanchor": "bottom",
            "font": {"size": 11, "color": colours.LIMIT},
        },
    }
