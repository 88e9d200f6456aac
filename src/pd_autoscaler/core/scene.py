"""The scene of an explanation: a report as it is looked at, and its numbers in words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pd_autoscaler.model.link import Link, LinkState, Pair, Wait
from pd_autoscaler.model.node import Node, NodeState
from pd_autoscaler.model.report import Report

WANTED = frozenset({NodeState.LINKING, NodeState.SERVING})
"""A pair is wanted while both of its nodes are in one of these states."""

UNMESHED = "engines connect by themselves, links are off (links.linker: none)"
"""What there is to say of links where nobody makes any."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A report as it is looked at `now_s`; `meanings` says what each status code means."""

    report: Report
    now_s: float
    meanings: Mapping[str, str]

    @cached_property
    def links(self) -> Mapping[Pair, Link]:
        """The report's links by pair."""
        return {link.pair: link for link in self.report.links}

    @cached_property
    def nodes(self) -> Mapping[str, Node]:
        """The report's nodes by id."""
        return {node.id: node for node in self.report.snapshot.nodes}

    @cached_property
    def waits(self) -> Mapping[Pair, Wait]:
        """The report's waits by pair."""
        return {(wait.decoder, wait.prompt): wait for wait in self.report.waits}

    @property
    def acts(self) -> bool:
        """Whether the report's plan was begun, not only made."""
        return self.report.is_acting

    @property
    def is_meshed(self) -> bool:
        """Whether the controller links nodes; else their engines connect by themselves."""
        return self.report.is_meshed

    @property
    def now_unix_s(self) -> float:
        """The wall time of looking."""
        return self.report.snapshot.now_unix_s + self.now_s - self.report.snapshot.now_s

    def state(self, pair: Pair) -> LinkState:
        """Return a pair's state; one that the report does not list is absent."""
        link = self.links.get(pair)
        return LinkState.ABSENT if link is None else link.state

    def is_wanted(self, pair: Pair) -> bool:
        """Whether both nodes of a pair link or serve, and the controller keeps it."""
        fit = (name in self.nodes and self.nodes[name].state in WANTED for name in pair)
        return pair in self.links and all(fit)

    def naming(self, texts: Sequence[str], *names: str) -> list[str]:
        """Return the texts that name all of these nodes."""
        return [text for text in texts if {*names} <= {*self._known.findall(text)}]

    @cached_property
    def _known(self) -> re.Pattern[str]:
        """Finds node ids in a text, the longest first: `p-1` is not named by `p-1-2`."""
        ids = {*self.nodes, *(name for pair in self.links for name in pair)}
        names = "|".join(map(re.escape, sorted(ids, key=len, reverse=True)))
        return re.compile(rf"(?<!\w)(?:{names or '(?!)'})(?!\w)")


def tries(count: int) -> str:
    """Count failed tries."""
    return f"{count} failed {'try' if count == 1 else 'tries'}"


def spoken(seconds: float) -> str:
    """Return a duration in words, from milliseconds to days; never negative."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.3g} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    for unit_s, unit, part_s, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= unit_s:
            return f"{whole // unit_s} {unit} {whole % unit_s // part_s} {part}"
    return f"{whole // 60} min {whole % 60} s"
