"""Findings: what a check came to, what was seen and what to fix."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from pd_autoscaler.model.node import Role


class Verdict(StrEnum):
    """How a check ended; `not checked` says why in what was seen."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: a sentence of what was seen, and one of what to fix, empty where nothing is."""

    check: str
    verdict: Verdict
    seen: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """The findings about one node, or about what is no node's."""

    name: str
    findings: tuple[Finding, ...]
    role: Role | None = None

    @property
    def counts(self) -> Counter[Verdict]:
        """How many checks ended in which way."""
        return Counter(finding.verdict for finding in self.findings)

    @property
    def is_fine(self) -> bool:
        """Whether there is nothing to fix or to mind."""
        return not self.counts.keys() & {Verdict.PROBLEM, Verdict.WARNING}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that was found."""

    groups: tuple[Group, ...]

    @property
    def counts(self) -> Counter[Verdict]:
        """How many checks ended in which way."""
        return sum((group.counts for group in self.groups), Counter[Verdict]())

    @property
    def has_problems(self) -> bool:
        """Whether anything must be fixed."""
        return self.counts[Verdict.PROBLEM] > 0


def ok(check: str, seen: str) -> Finding:
    """Return a check that found things as they should be."""
    return Finding(check, Verdict.OK, seen)


def warning(check: str, seen: str, fix: str) -> Finding:
    """Return a check that found something to mind."""
    return Finding(check, Verdict.WARNING, seen, fix)


def problem(check: str, seen: str, fix: str) -> Finding:
    """Return a check that found something to fix."""
    return Finding(check, Verdict.PROBLEM, seen, fix)


def not_checked(check: str, why: str) -> Finding:
    """Return a check that could not be made."""
    return Finding(check, Verdict.NOT_CHECKED, why)
