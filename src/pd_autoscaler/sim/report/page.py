"""A comparison as one HTML file that needs nothing else: it opens without a network."""

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template

from pd_autoscaler.sim.records import Run, Slo
from pd_autoscaler.sim.report import colours, decisions
from pd_autoscaler.sim.report.comparison import Comparison, Setting
from pd_autoscaler.sim.report.encoding import script_json
from pd_autoscaler.sim.report.front import front
from pd_autoscaler.sim.report.panels import Figure
from pd_autoscaler.sim.report.tables import headline, swatch
from pd_autoscaler.sim.report.timeline import timeline, unit_of

SERIES_BYTES_MAX = 3_500_000
DECISION_BYTES_MAX = 2_500_000
"""What all plots and all lists may take; plotly.js itself is 4.8 MB."""
POINTS_MAX, POINTS_MIN = 1500, 100
DRAWN_MAX = 60
"""With more settings than this, only the first of each policy is drawn over time."""

_SERIES = 28
_BYTES_PER_POINT = 16 / 3


def page(compared: Comparison) -> str:
    """Return a comparison as HTML, below 12 MB; every text from outside is escaped.

    Raises ImportError where plotly is not installed.
    """
    from plotly.offline import get_plotlyjs  # noqa: PLC0415  # An extra.

    drawn = _drawn(compared)
    looks = colours.looks(compared.policies)
    share = 1 / len(drawn)
    sections = "".join(
        _section(number, setting, compared, looks[setting.policy], share)
        for number, setting in enumerate(drawn)
    )
    return Template(_file("page.html")).substitute(
        title=escape(f"Policies on {compared.scenario}"),
        facts=_facts(compared),
        headline=headline(compared, compared.slo),
        others="".join(_other(compared, slo) for slo in compared.slos[1:]),
        front=_plot("front", front(compared)),
        contents=_contents(drawn, looks),
        left_out=_left_out(len(compared.settings) - len(drawn)),
        sections=sections,
        css=_file("page.css"),
        plotly=get_plotlyjs(),
        js=_file("page.js"),
    )


def _file(name: str) -> str:
    return files("pd_autoscaler.sim.report").joinpath(name).read_text(encoding="utf-8")


def _drawn(compared: Comparison) -> list[Setting]:
    if len(compared.settings) <= DRAWN_MAX:
        return list(compared.settings)
    first: dict[str, Setting] = {}
    for setting in compared.settings:
        first.setdefault(setting.policy, setting)
    return list(first.values())[:DRAWN_MAX]


def _facts(compared: Comparison) -> str:
    run = compared.settings[0].runs[0]
    seeds = max(len(setting.runs) for setting in compared.settings)
    unit_s, unit = unit_of(run.lasted_s)
    parts = [
        f"{len(run.requests.arrivals):,} requests in {run.lasted_s / unit_s:.3g} {unit}",
        f"{len(compared.policies)} policies",
        f"{seeds} runs of each" if seeds > 1 else "one run of each",
        _slo_text(compared.slo),
        f"owed: {100 * compared.target:g} % of requests with both in time",
    ]
    return "".join(f"<li>{escape(part)}</li>" for part in parts)


def _slo_text(slo: Slo) -> str:
    return f"{slo.name}: TTFT {slo.ttft_s:g} s, TPOT {1000 * slo.tpot_s:g} ms"


def _other(compared: Comparison, slo: Slo) -> str:
    return (
        f"<details><summary>The same runs judged by {escape(_slo_text(slo))}</summary>"
        f'<div class="wide">{headline(compared, slo)}</div></details>'
    )


def _contents(drawn: list[Setting], looks: Mapping[str, colours.Look]) -> str:
    return "".join(
        f'<a href="#run-{number}">{swatch(looks[setting.policy])}{escape(setting.label)}</a>'
        for number, setting in enumerate(drawn)
    )


def _left_out(count: int) -> str:
    if not count:
        return ""
    return f"<p>{count} more settings are in the table and the front, and not drawn over time.</p>"


def _section(
    number: int, setting: Setting, compared: Comparison, look: colours.Look, share: float
) -> str:
    run = setting.runs[0]
    points = int(share * SERIES_BYTES_MAX / (_SERIES * _BYTES_PER_POINT))
    figure = timeline(run, compared.slo, points_max=min(POINTS_MAX, max(POINTS_MIN, points)))
    shown = f"seed {run.seed}"
    if len(setting.runs) > 1:
        shown += f", the first of {len(setting.runs)} runs"
    return (
        f'<section class="card run" id="run-{number}">'
        f"<h2>{swatch(look)}{escape(setting.label)} <small>{escape(shown)}</small></h2>"
        f"{_plot(f'time-{number}', figure)}{_decisions(run, int(share * DECISION_BYTES_MAX))}"
        "</section>"
    )


def _plot(name: str, figure: Figure) -> str:
    height = figure["layout"]["height"]
    return (
        f'<div class="plot" data-figure="{name}" style="height:{height}px"></div>'
        f'<script type="application/json" id="{name}">{script_json(figure)}</script>'
    )


def _decisions(run: Run, bytes_max: int) -> str:
    unit_s, _ = unit_of(run.lasted_s)
    rows, left_out = decisions.rows(run, bytes_max=bytes_max, unit_s=unit_s)
    held = ", ".join(
        f"{escape(reason)} {count:,}\N{MULTIPLICATION SIGN}"
        for reason, count in sorted(run.holds.items(), key=lambda item: (-item[1], item[0]))
    )
    more = f"<p>{left_out:,} later moves are not listed.</p>" if left_out else ""
    holds = f"<p>Cycles that held the target: {held}.</p>" if held else ""
    return (
        f"<h3>Moves of the target <small>{len(run.changes):,}</small></h3>"
        '<input type="search" placeholder="find in times, counts and reasons" '
        'aria-label="find a move">'
        '<div class="decisions"><table><thead><tr><th>at</th><th>target</th><th>why</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>{more}{holds}"
    )
