"""A run over time: what came, what nodes there were, how fast and how well it was served."""

from html import escape

import numpy as np

from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.sim.attainment import verdicts
from pd_autoscaler.sim.records import Floats, Run, Sample, Slo
from pd_autoscaler.sim.report import colours
from pd_autoscaler.sim.report.panels import Figure, Panel, Trace, stacked
from pd_autoscaler.sim.report.windows import windows_over

_UNITS = ((172800.0, 86400.0, "days"), (7200.0, 3600.0, "hours"), (0.0, 60.0, "minutes"))
"""From this many seconds on: the unit in seconds, and its name."""

_TICKS = [digit * 10.0**power for power in range(-4, 7) for digit in (1, 2, 5)]
_LOG_TICKS = {
    "tickmode": "array",
    "tickvals": _TICKS,
    "ticktext": [f"{tick:,.10g}" for tick in _TICKS],
}
"""Plotly's own ticks between two powers of ten show their first digit only."""

_INPUT, _OUTPUT = colours.ROLES[Role.PROMPT], colours.ROLES[Role.DECODER]


def timeline(run: Run, slo: Slo, *, points_max: int) -> Figure:
    """Return a run as panels over one time axis; no series has more than `points_max` points."""
    drawn = _Drawn(run, slo, points_max)
    panels = [
        *drawn.demand(),
        *(drawn.nodes(role) for role in Role),
        drawn.ratio(),
        *drawn.latencies(),
        drawn.attainment(),
        drawn.requests(),
    ]
    return stacked(panels, time_unit=drawn.unit)


def duration(seconds: float) -> str:
    """Return a nameable width of a window with its unit."""
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:g} {unit}"
    return f"{seconds:g} s"


def unit_of(lasted_s: float) -> tuple[float, str]:
    """Return the unit that a time axis of this length counts in: seconds, and name."""
    return next((unit_s, name) for least_s, unit_s, name in _UNITS if lasted_s > least_s)


class _Drawn:
    """The panels of one run: samples in narrow windows, requests in wide ones.

    A percentile of a handful of requests is noise, a node that came and went is not.
    """

    def __init__(self, run: Run, slo: Slo, points_max: int) -> None:
        self._run, self._slo = run, slo
        self._narrow = windows_over(run.lasted_s, points_max=points_max)
        self._wide = windows_over(run.lasted_s, points_max=max(1, points_max // 5))
        self._per = f", in windows of {duration(self._wide.width_s)}"
        self._unit_s, self.unit = unit_of(max(run.lasted_s, 1.0))
        self._at_s = run.requests.arrivals.at_s
        self._sampled_s = np.array([sample.at_s for sample in run.samples])
        self._nodes = _columns(run.samples)

    def demand(self) -> list[Panel]:
        """What came: requests, and tokens of both kinds."""
        arrivals, at_s = self._run.requests.arrivals, self._at_s
        rates = self._wide.rates
        return [
            Panel(
                f"Requests per second{self._per}",
                "",
                [self._line("requests", rates(at_s), colours.DIM)],
            ),
            Panel(
                "Tokens per second",
                "tokens,",
                [
                    self._line("prompt", rates(at_s, arrivals.input_tokens), _INPUT),
                    self._line("output", rates(at_s, arrivals.output_tokens), _OUTPUT),
                ],
            ),
        ]

    def nodes(self, role: Role) -> Panel:
        """The nodes of a role by state, and the target."""
        areas = []
        for layer in colours.LAYERS:
            counts = self._held(self._count(role, layer.states))
            if np.nansum(counts):
                areas.append(self._area(layer, counts, colours.ROLES[role]))
        target = self._line(
            "target", self._held(self._targets(role)), colours.TARGET, is_sampled=True
        )
        return Panel(f"{role.capitalize()} nodes", f"{role} nodes,", [*areas, target])

    def ratio(self) -> Panel:
        """Prompt nodes for each decoder: those wanted, and those that serve."""
        serving = [self._count(role, (NodeState.SERVING,)) for role in Role]
        wanted = [self._targets(role) for role in Role]
        return Panel(
            "P:D ratio (prompt nodes per decoder)",
            "P:D,",
            [
                self._line(
                    "serving", self._held(_quotient(*serving)), colours.DIM, is_sampled=True
                ),
                self._line(
                    "target", self._held(_quotient(*wanted)), colours.TARGET, is_sampled=True
                ),
            ],
        )

    def latencies(self) -> list[Panel]:
        """TTFT and TPOT of what arrived in each window, with what they should be."""
        log, slo = self._run.requests, self._slo
        return [
            self._latency("TTFT, seconds", log.ttft_s, slo.ttft_s, _INPUT),
            self._latency("TPOT, milliseconds", 1000 * log.tpot_s, 1000 * slo.tpot_s, _OUTPUT),
        ]

    def attainment(self) -> Panel:
        """The share of what arrived in each window that met both targets."""
        slo = self._slo
        seen = verdicts(self._run.requests, slo, lasted_s=self._run.lasted_s)
        shares = 100 * self._wide.shares(self._at_s[seen.counts], seen.both[seen.counts])
        line = self._line("both met", shares, "#117733")
        title = f"Attainment of {escape(slo.name)}, % of what arrived"
        return Panel(title, "%", [line], axis={"range": [0, 104]})

    def requests(self) -> Panel:
        """Where requests were: waiting (the most in a window), and under way."""
        series = []
        for role, queue, running in (
            (Role.PROMPT, "queue_prompt", "running_prompt"),
            (Role.DECODER, "queue_decoder", "running_decoder"),
        ):
            for name, dash, of in (("waiting", "solid", queue), ("under way", "dot", running)):
                values = [getattr(sample, of) for sample in self._run.samples]
                line = self._line(
                    f"{role}, {name}", self._peaks(values), colours.ROLES[role], is_sampled=True
                )
                line["line"]["dash"] = dash
                series.append(line)
        return Panel("Requests at the nodes", "at nodes:", series)

    def _latency(self, title: str, values: Floats, wanted: float, colour: str) -> Panel:
        middle, high = self._wide.quantiles(self._at_s, values, (0.5, 0.95))
        p95 = self._line("p95", high, colour)
        p95["line"]["width"] = 1
        lines = [self._line("p50", middle, colours.faded(colour, 0.6)), p95]
        # A log axis has no place for 0.
        return Panel(
            f"{title} (dashed: {escape(self._slo.name)}, {wanted:g})",
            title.partition(",")[0],
            [{**line, "y": np.where(line["y"] > 0, line["y"], np.nan)} for line in lines],
            limit=wanted,
            axis={"type": "log", "rangemode": "normal", **_LOG_TICKS},
        )

    def _line(self, name: str, y: Floats, colour: str, *, is_sampled: bool = False) -> Trace:
        shape = "hv" if is_sampled else "linear"
        return {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x0": 0.0,
            "dx": (self._narrow if is_sampled else self._wide).width_s / self._unit_s,
            "y": y,
            "line": {"color": colour, "width": 1.5, "shape": shape},
        }

    def _area(self, layer: colours.Layer, counts: Floats, colour: str) -> Trace:
        fill = colours.faded(colour, layer.opacity)
        area = self._line(layer.name, np.nan_to_num(counts), fill, is_sampled=True)
        area |= {"stackgroup": "", "fillcolor": fill}
        area["line"]["width"] = 0
        if layer.pattern:
            # Not by colour alone: what leaves would look like what comes.
            area["fillpattern"] = {"shape": layer.pattern, "fgcolor": colour, "size": 5}
        return area

    def _count(self, role: Role, states: tuple[NodeState, ...]) -> Floats:
        none = np.zeros(len(self._sampled_s))
        return sum((self._nodes.get((role, state), none) for state in states), start=none)

    def _targets(self, role: Role) -> Floats:
        return np.array([sample.target.of(role) for sample in self._run.samples], np.float64)

    def _held(self, values: Floats) -> Floats:
        return self._narrow.last(self._sampled_s, values)

    def _peaks(self, values: list[int]) -> Floats:
        return self._narrow.highest(self._sampled_s, np.array(values, np.float64))


def _columns(samples: tuple[Sample, ...]) -> dict[tuple[Role, NodeState], Floats]:
    """Return the nodes of each role and state as a series of the samples; those ever seen."""
    found: dict[tuple[Role, NodeState], Floats] = {}
    for number, sample in enumerate(samples):
        for key, count in sample.nodes.items():
            found.setdefault(key, np.zeros(len(samples)))[number] = count
    return found


def _quotient(above: Floats, below: Floats) -> Floats:
    found: Floats = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
    return found
