"""A run over time: what came, what nodes there were, how fast and how well it was served."""

import numpy as np
from numpy.typing import NDArray

from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.sim.records import Floats, Run, Sample, Slo
from pd_autoscaler.sim.report import colours
from pd_autoscaler.sim.report.panels import Figure, Limit, Panel, Trace, stacked
from pd_autoscaler.sim.report.windows import Windows, windows_over

_UNITS = ((172800.0, 86400.0, "days"), (7200.0, 3600.0, "hours"), (0.0, 60.0, "minutes"))
"""From this many seconds on: the unit in seconds, and its name."""

_INPUT, _OUTPUT = colours.ROLES[Role.PROMPT], colours.ROLES[Role.DECODER]


def timeline(run: Run, slo: Slo, *, points_max: int) -> Figure:
    """Return a run as panels over one time axis; no series has more than `points_max` points."""
    drawn = _Drawn(run, slo, windows_over(run.lasted_s, points_max=points_max))
    panels = [
        *drawn.demand(),
        *(drawn.nodes(role) for role in Role),
        drawn.ratio(),
        *drawn.latencies(),
        drawn.attainment(),
        drawn.requests(),
    ]
    return stacked(panels, time_unit=drawn.unit)


def unit_of(lasted_s: float) -> tuple[float, str]:
    """Return the unit that a time axis of this length counts in: seconds, and name."""
    return next((unit_s, name) for least_s, unit_s, name in _UNITS if lasted_s > least_s)


class _Drawn:
    """The panels of one run; all of its series share the windows."""

    def __init__(self, run: Run, slo: Slo, windows: Windows) -> None:
        self._run, self._slo, self._windows = run, slo, windows
        self._unit_s, self.unit = unit_of(max(run.lasted_s, 1.0))
        self._at_s = run.requests.arrivals.at_s
        self._sampled_s = np.array([sample.at_s for sample in run.samples])

    def demand(self) -> list[Panel]:
        """What came: requests, and tokens of both kinds."""
        arrivals, at_s = self._run.requests.arrivals, self._at_s
        rates = self._windows.rates
        return [
            Panel("Requests per second", [self._line("requests", rates(at_s), colours.DIM)]),
            Panel(
                "Tokens per second",
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
            counts = self._held(_counts(self._run.samples, role, layer.states))
            if np.nansum(counts):
                areas.append(self._area(layer, counts, colours.ROLES[role]))
        targets = self._held([sample.target.of(role) for sample in self._run.samples])
        target = self._line("target", targets, colours.TARGET, is_step=True)
        return Panel(f"{role.capitalize()} nodes", [*areas, target])

    def ratio(self) -> Panel:
        """Prompt nodes for each decoder: those wanted, and those that serve."""
        serving = [_counts(self._run.samples, role, (NodeState.SERVING,)) for role in Role]
        wanted = [[sample.target.of(role) for sample in self._run.samples] for role in Role]
        return Panel(
            "Prompt nodes per decoder",
            [
                self._line("serving", self._held(_quotient(*serving)), colours.DIM, is_step=True),
                self._line("target", self._held(_quotient(*wanted)), colours.TARGET, is_step=True),
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
        log, slo = self._run.requests, self._slo
        is_met = (log.ttft_s <= slo.ttft_s) & (log.tpot_s <= slo.tpot_s)
        shares = 100 * self._windows.shares(self._at_s, is_met)
        line = self._line("both met", shares, "#117733")
        return Panel("Attainment, % of what arrived", [line], axis={"range": [0, 104]})

    def requests(self) -> Panel:
        """Where requests were: waiting (the most in a window), and under way."""
        series = []
        for role, queue, running in (
            (Role.PROMPT, "queue_prompt", "running_prompt"),
            (Role.DECODER, "queue_decoder", "running_decoder"),
        ):
            for name, dash, of in (("waiting", "solid", queue), ("under way", "dot", running)):
                values = [getattr(sample, of) for sample in self._run.samples]
                line = self._line(f"{role}, {name}", self._peaks(values), colours.ROLES[role])
                line["line"]["dash"] = dash
                series.append(line)
        return Panel("Requests at the nodes", series)

    def _latency(self, title: str, values: Floats, wanted: float, colour: str) -> Panel:
        middle, high = self._windows.quantiles(self._at_s, values, (0.5, 0.95))
        p95 = self._line("p95", high, colour)
        p95["line"]["width"] = 1
        lines = [self._line("p50", middle, colours.faded(colour, 0.6)), p95]
        # A log axis has no place for 0, and plotly wants the place of a shape as it is written.
        return Panel(
            title,
            [{**line, "y": np.where(line["y"] > 0, line["y"], np.nan)} for line in lines],
            limits=[Limit(wanted, f"{self._slo.name} {wanted:g}")],
            axis={"type": "log", "rangemode": "normal", "dtick": 1, "exponentformat": "none"},
        )

    def _line(self, name: str, y: Floats, colour: str, *, is_step: bool = False) -> Trace:
        shape = "hv" if is_step else "linear"
        return {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            **self._times(),
            "y": y,
            "line": {"color": colour, "width": 1.5, "shape": shape},
            "hovertemplate": "%{y:.4~g}",
        }

    def _area(self, layer: colours.Layer, counts: Floats, colour: str) -> Trace:
        fill = colours.faded(colour, layer.opacity)
        area = self._line(layer.name, np.nan_to_num(counts), fill, is_step=True)
        area |= {"stackgroup": "", "fillcolor": fill}
        area["line"]["width"] = 0
        if layer.pattern:
            # Not by colour alone: what leaves would look like what comes.
            area["fillpattern"] = {"shape": layer.pattern, "fgcolor": colour, "size": 5}
        return area

    def _times(self) -> dict[str, float]:
        return {"x0": 0.0, "dx": self._windows.width_s / self._unit_s}

    def _held(self, values: list[int] | Floats) -> Floats:
        return self._windows.last(self._sampled_s, np.array(values, np.float64))

    def _peaks(self, values: list[int]) -> Floats:
        return self._windows.highest(self._sampled_s, np.array(values, np.float64))


def _counts(samples: tuple[Sample, ...], role: Role, states: tuple[NodeState, ...]) -> list[int]:
    return [sample.count(role, *states) for sample in samples]


def _quotient(prompts: list[int], decoders: list[int]) -> Floats:
    above, below = np.array(prompts, np.float64), np.array(decoders, np.float64)
    none: NDArray[np.float64] = np.full(len(below), np.nan)
    return np.divide(above, below, out=none, where=below > 0)
