"""The controller's own metrics: the one reader of Reports that turns them into numbers.

Every label set is closed, and every series of a closed set is there from the start, at zero. What
is unknown has no series (or is not-a-number where there is no label): it is never zero. Node ids
appear in `link_up`, `link_state` and `card_links` alone, and only below a cap.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Info
from prometheus_client.metrics import disable_created_metrics

from pd_autoscaler import __version__
from pd_autoscaler.model.report import Report
from pd_autoscaler.telemetry.actions import Actions
from pd_autoscaler.telemetry.capacities import Capacities
from pd_autoscaler.telemetry.cards import Cards
from pd_autoscaler.telemetry.cycles import Cycles
from pd_autoscaler.telemetry.fleet import Fleet
from pd_autoscaler.telemetry.links import Links
from pd_autoscaler.telemetry.pairs import Pairs
from pd_autoscaler.telemetry.scrapes import Scrapes
from pd_autoscaler.telemetry.shadows import Shadows

PAIRS_MAX = 64 * 64
"""Above so many pairs none has series of its own: they would drown the server."""

NODES_MAX = 1024
"""Above so many nodes none has a series of its own."""


class Telemetry:
    """`ports.ReportSink` that keeps `pd_autoscaler_*` metrics on the registry it was given.

    `shadows` are the names of the shadow policies that reports may tell of.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        version: str = __version__,
        pairs_max: int = PAIRS_MAX,
        nodes_max: int = NODES_MAX,
        shadows: Sequence[str] = (),
    ) -> None:
        # The library would add a gauge `…_created` to each counter and histogram: in this page,
        # and, as the switch is the process's, in any other of it.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library does not type it
        Info("pd_autoscaler_build", "Which version runs.", registry=registry).info(
            {"version": version}
        )
        self._cycles = Cycles(registry)
        self._fleet = Fleet(registry)
        self._capacities = Capacities(registry)
        self._scrapes = Scrapes(registry)
        self._links = Links(registry)
        self._pairs = Pairs(registry, pairs_max)
        self._cards = Cards(registry, nodes_max)
        self._actions = Actions(registry)
        self._shadows = Shadows(registry, shadows)
        self._journal_errors = Counter(
            "pd_autoscaler_journal_errors_total",
            "Journal writes that failed; nothing new is begun meanwhile.",
            registry=registry,
        )
        self._advisor_errors = Counter(
            "pd_autoscaler_advisor_errors_total",
            "Calls of the advisor that failed, or brought a wrong answer.",
            registry=registry,
        )

    def append(self, report: Report) -> None:
        """Take in one report."""
        self._cycles.take(report)
        self._fleet.take(report)
        self._capacities.take(report)
        self._scrapes.take(report)
        self._links.take(report)
        self._pairs.take(report)
        self._cards.take(report)
        self._actions.take(report)
        self._shadows.take(report)

    def journal_failed(self) -> None:
        """Count a journal write that failed."""
        self._journal_errors.inc()

    def advisor_failed(self) -> None:
        """Count a call of the advisor that brought no answer, or a wrong one."""
        self._advisor_errors.inc()
