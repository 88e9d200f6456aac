"""Panels: plots below each other over one time axis, as a figure of plotly.

A figure is the plain dictionary that plotly.js draws; its series are numpy arrays until it is
written (`sim.report.encoding`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pd_autoscaler.sim.report import colours

Figure = dict[str, Any]
Trace = dict[str, Any]

FONT = 'system-ui, "DejaVu Sans", sans-serif'
_PANEL_PX = 118
_GAP_PX = 34
_TOP_PX = 26
_BOTTOM_PX = 44


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: its title with the unit, its traces, and where a limit runs across it.

    `word` says what a value is where those of all panels stand together.
    """

    title: str
    word: str
    traces: Sequence[Trace]
    limit: float | None = None
    axis: dict[str, Any] = field(default_factory=dict)


def stacked(panels: Sequence[Panel], *, time_unit: str) -> Figure:
    """Return panels as a figure whose panels zoom and read together along time."""
    plots_px = len(panels) * _PANEL_PX + (len(panels) - 1) * _GAP_PX
    figure: Figure = {
        "data": [],
        "layout": {
            **base_layout(plots_px + _TOP_PX + _BOTTOM_PX),
            "margin": {"l": 64, "r": 150, "t": _TOP_PX, "b": _BOTTOM_PX},
            "hovermode": "x unified",
            "hoversubplots": "axis",
            "annotations": [],
            "shapes": [],
            "xaxis": {
                **axis_style(),
                "title": {"text": f"{time_unit} since the start"},
                "anchor": f"y{len(panels)}" if len(panels) > 1 else "y",
                "hoverformat": ".3~f",
            },
        },
    }
    for number, panel in enumerate(panels):
        top_px = number * (_PANEL_PX + _GAP_PX)
        domain = [1 - (top_px + _PANEL_PX) / plots_px, 1 - top_px / plots_px]
        _add(figure, panel, number, [max(0.0, domain[0]), domain[1]])
    return figure


def base_layout(height_px: int) -> dict[str, Any]:
    """Return what every figure of a report has in common."""
    return {
        "height": height_px,
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "font": {"family": FONT, "size": 12, "color": colours.TEXT},
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "namelength": -1},
    }


def axis_style() -> dict[str, Any]:
    """Return how axes look: a thin grid, and no zero line that would hide a series."""
    return {
        "gridcolor": "#eceff3",
        "linecolor": colours.LINE,
        "showline": True,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": colours.LINE,
    }


def _add(figure: Figure, panel: Panel, number: int, domain: list[float]) -> None:
    suffix = str(number + 1) if number else ""
    layout = figure["layout"]
    layout[f"yaxis{suffix}"] = {
        **axis_style(),
        "domain": domain,
        "anchor": "x",
        "nticks": 5,
        "rangemode": "tozero",
        **panel.axis,
    }
    layout[f"legend{suffix}"] = {
        "x": 1.01,
        "y": domain[1],
        "xanchor": "left",
        "yanchor": "top",
        "font": {"size": 11},
        "tracegroupgap": 0,
        "itemwidth": 30,
    }
    layout["annotations"].append(_title(panel.title, domain[1]))
    for trace in panel.traces:
        placed = {"xaxis": "x", "yaxis": f"y{suffix}", "legend": f"legend{suffix}"}
        stack = {"stackgroup": f"stack{suffix}"} if "stackgroup" in trace else {}
        told = f"{panel.word} {trace['name']}: %{{y:.4~g}}<extra></extra>".strip()
        figure["data"].append({**trace, **placed, **stack, "hovertemplate": told})
    if panel.limit is not None:
        layout["shapes"].append(_line(panel.limit, f"y{suffix}"))


def _title(text: str, top: float) -> dict[str, Any]:
    return {
        "text": f"<b>{text}</b>",
        "showarrow": False,
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "y": top,
        "xanchor": "left",
        "yanchor": "bottom",
        "font": {"size": 12},
    }


def _line(limit: float, yaxis: str) -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": yaxis,
        "y0": limit,
        "y1": limit,
        "line": {"color": colours.LIMIT, "width": 1.5, "dash": "dash"},
    }
