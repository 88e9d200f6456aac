"""Scores as a table for people, narrow enough for 120 columns."""

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from pd_autoscaler.cli.console import plain
from pd_autoscaler.cli.tables import BAD, DIM, GOOD
from pd_autoscaler.sim.report.columns import COLUMNS, NONE, mean_text, width_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pd_autoscaler.sim.intervals import Interval
    from pd_autoscaler.sim.records import Slo
    from pd_autoscaler.sim.report.comparison import Comparison, Setting

_BY_FIGURE = {column.figure: column for column in COLUMNS}
_NAME_WIDTHS = 18, 24

_TITLES = (
    ("both", "both\n%"),
    ("ttft", "TTFT\n%"),
    ("tpot", "TPOT\n%"),
    ("worst_both", "worst\n5 min"),
    ("node_hours", "node-\nhours"),
    ("cost_ratio", "cost\nratio"),
    ("goodput_per_node_hour", "goodput\n/node-h"),
    ("actions", "acts"),
    ("reversals", "revs"),
)
_WITH_WIDTH = frozenset({"both", "node_hours"})
_PAIRS = (("TTFT s\np50 p99", "ttft"), ("TPOT ms\np50 p99", "tpot"))


def scores(compared: "Comparison", slo: "Slo") -> Table:
    """Return the settings with their means; of attainment and cost with 95 % intervals.

    Columns that nobody has a figure for are left out.
    """
    found = [setting.figures(slo) for setting in compared.settings]
    titles = [title for title in _TITLES if any(title[0] in figures for figures in found)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    narrow, wide = _NAME_WIDTHS
    table.add_column("policy", overflow="fold", min_width=narrow, max_width=wide)
    for title in (*(title for _, title in titles), *(title for title, _ in _PAIRS)):
        table.add_column(title, justify="right", no_wrap=True)
    for setting, figures in zip(compared.settings, found, strict=True):
        cells = [_cell(figure, figures, compared.target) for figure, _ in titles]
        pairs = [_pair(figures, name) for _, name in _PAIRS]
        table.add_row(_name(setting), *cells, *pairs)
    return table


def caption(compared: "Comparison", slo: "Slo") -> str:
    """Say in a line what the table is of."""
    runs = max(len(setting.runs) for setting in compared.settings)
    return plain(
        f"{compared.scenario}, {slo.name}: TTFT {slo.ttft_s:g} s, TPOT {1000 * slo.tpot_s:g} ms; "
        f"{runs} run{'s' if runs > 1 else ''} of each; owed {100 * compared.target:g} % of both"
    )


def _name(setting: "Setting") -> Text:
    name = Text(plain(setting.policy))
    if setting.params:
        name.append(f"\n{plain(setting.params_text)}", DIM)
    return name


def _cell(figure: str, figures: "Mapping[str, Interval]", target: float) -> Text:
    column = _BY_FIGURE[figure]
    text = Text(mean_text(column, figures))
    if figure == "both" and figure in figures:
        text.stylize(GOOD if figures[figure].mean >= target else BAD)
    if figure in _WITH_WIDTH:
        text.append(width_text(column, figures).replace(" ", ""), DIM)
    return text


def _pair(figures: "Mapping[str, Interval]", name: str) -> str:
    texts = [mean_text(_BY_FIGURE[f"{name}_{level}_s"], figures) for level in ("p50", "p99")]
    return NONE if texts == [NONE, NONE] else " ".join(texts)
