"""Columns: which figures of a score a table shows, and how a mean and its interval are written."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pd_autoscaler.sim.intervals import Interval


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a score under its title; `group` is the title it shares with its neighbours.

    `scale` turns it into the unit of the title. `is_better_high` is None where neither is better.
    """

    figure: str
    title: str
    group: str = ""
    scale: float = 1.0
    digits: Callable[[float], int] = lambda _: 0
    is_better_high: bool | None = False


def _percents(_: float) -> int:
    return 2


def _three(value: float) -> int:
    """Return the decimals that show three digits."""
    size = abs(value)
    return 2 if size < 10 else 1 if size < 100 else 0


def _count(value: float) -> int:
    """Return the decimals of a mean of counts."""
    return 0 if value == round(value) or abs(value) >= 100 else 1


_OVERALL, _WORST = "attainment, %", "worst 5 minutes, %"
_FIRST, _LATER = "TTFT, s", "TPOT, ms"

COLUMNS = (
    Column("both", "both", _OVERALL, 100.0, _percents, is_better_high=True),
    Column("ttft", "TTFT", _OVERALL, 100.0, _percents, is_better_high=True),
    Column("tpot", "TPOT", _OVERALL, 100.0, _percents, is_better_high=True),
    Column("worst_both", "both", _WORST, 100.0, _percents, is_better_high=True),
    Column("worst_ttft", "TTFT", _WORST, 100.0, _percents, is_better_high=True),
    Column("worst_tpot", "TPOT", _WORST, 100.0, _percents, is_better_high=True),
    Column("node_hours", "node-hours", "cost", 1.0, _three),
    Column("cost_ratio", "to oracle's", "cost", 1.0, _percents),
    Column("goodput_per_node_hour", "goodput per node-hour", "cost", 1.0, _three, True),
    Column("actions", "actions", "scaling", 1.0, _count),
    Column("reversals", "reversals", "scaling", 1.0, _count),
    Column("ttft_p50_s", "p50", _FIRST, 1.0, _percents),
    Column("ttft_p99_s", "p99", _FIRST, 1.0, _percents),
    Column("tpot_p50_s", "p50", _LATER, 1000.0, _three),
    Column("tpot_p99_s", "p99", _LATER, 1000.0, _three),
)
"""Of the headline table, from left to right."""

NONE = "\N{EN DASH}"
NEVER = "never"


def mean_text(column: Column, figures: Mapping[str, Interval]) -> str:
    """Return a mean in the column's unit; a dash where it is unknown, `never` for endless."""
    found = figures.get(column.figure)
    if found is None or math.isnan(found.mean):
        return NONE
    if math.isinf(found.mean):
        return NEVER
    value = column.scale * found.mean
    return f"{value:.{column.digits(value)}f}"


def width_text(column: Column, figures: Mapping[str, Interval]) -> str:
    """Return half the width of a mean's interval as `± width`; empty where there is none."""
    found = figures.get(column.figure)
    if found is None or found.half_width is None or not math.isfinite(found.half_width):
        return ""
    digits = column.digits(column.scale * found.mean)
    return f"\N{PLUS-MINUS SIGN} {column.scale * found.half_width:.{digits}f}"
