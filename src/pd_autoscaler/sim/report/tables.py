"""The headline table of a page: a row a setting, a column a figure."""

from html import escape
from itertools import groupby

from pd_autoscaler.sim.intervals import Interval
from pd_autoscaler.sim.records import Slo
from pd_autoscaler.sim.report import colours
from pd_autoscaler.sim.report.columns import COLUMNS, Column, mean_text, width_text
from pd_autoscaler.sim.report.comparison import Comparison, Setting


def headline(compared: Comparison, slo: Slo) -> str:
    """Return the table of one pair of latency targets as HTML; columns nobody has are left out."""
    figures = [setting.figures(slo) for setting in compared.settings]
    columns = [column for column in COLUMNS if any(column.figure in found for found in figures)]
    looks = colours.looks(compared.policies)
    body = "".join(
        _row(setting, found, columns, looks[setting.policy], compared.target)
        for setting, found in zip(compared.settings, figures, strict=True)
    )
    head = f"<thead>{_head(columns)}</thead>"
    return f'<table class="scores sortable">{head}<tbody>{body}</tbody></table>'


def swatch(look: colours.Look) -> str:
    """Return a spot in a policy's colour."""
    return f'<span class="swatch" style="background:{look.colour}"></span>'


def _head(columns: list[Column]) -> str:
    groups = "".join(
        f'<th colspan="{len(list(members))}" class="group">{escape(group)}</th>'
        for group, members in groupby(columns, key=lambda column: column.group)
    )
    titles = "".join(
        f'<th scope="col" class="key">{escape(column.title)}</th>' for column in columns
    )
    return (
        f'<tr><th></th>{groups}</tr><tr><th scope="col" class="key name">policy</th>{titles}</tr>'
    )


def _row(
    setting: Setting,
    figures: dict[str, Interval],
    columns: list[Column],
    look: colours.Look,
    target: float,
) -> str:
    params = f'<div class="dim">{escape(setting.params_text)}</div>' if setting.params else ""
    is_short = "both" in figures and figures["both"].mean < target
    short = f'<div class="short">below {100 * target:g} %</div>' if is_short else ""
    cells = "".join(_cell(column, figures) for column in columns)
    name = f"{swatch(look)}{escape(setting.policy)}"
    return f'<tr><th class="name">{name}{params}{short}</th>{cells}</tr>'


def _cell(column: Column, figures: dict[str, Interval]) -> str:
    found = figures.get(column.figure)
    value = "" if found is None else f"{found.mean:.6g}"
    width = width_text(column, figures)
    below = f"<small>{width}</small>" if width else ""
    return f'<td data-value="{value}">{mean_text(column, figures)}{below}</td>'
