"""A page looked at: whose it is, what it holds, and what its counters say of the role."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum

from pd_autoscaler.adapters.metrics.exposition import PageError, PageParser, Sample
from pd_autoscaler.adapters.metrics.profiles import Profile, ProfileBook
from pd_autoscaler.doctor import roles
from pd_autoscaler.doctor.roles import Counts, Evidence
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.model.signals import Reading

_SAMPLE = re.compile(
    rb"^[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{[^\n]*\})?[ \t]+[-+]?(?:[0-9.]|Inf|NaN)[^\n]*$", re.MULTILINE
)
_START = "process_start_time_seconds"
_ENGINES: Mapping[str, tuple[frozenset[str], str]] = {
    "vllm": (frozenset({"vllm:num_requests_running", "vllm_num_requests_running"}), "engine"),
    "sglang": (frozenset({"sglang:num_running_reqs", "sglang_num_running_reqs"}), "dp_rank"),
}
"""A gauge that each engine of a node has, and the label that tells those apart."""


class Kind(StrEnum):
    """What an answer's body is."""

    METRICS = "metrics"
    EMPTY = "empty"
    HTML = "HTML"
    JSON = "JSON"
    OTHER = "some other text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one page holds.

    `detected` is the profile whose names it has, `engine` by whose rules its counters are
    understood, `profile` what it was read with, `error` why it could not be, `hint` what that
    engine needs to be told; `missing` says which signals of the role are not there. `role` is the
    one it was read for, `engines` are the ranks on it, `now_unix_s` is by the server's clock.
    """

    kind: Kind
    size: int
    detected: str = ""
    engine: str = ""
    profile: str = ""
    hint: str = ""
    error: str = ""
    role: Role | None = None
    reading: Reading | None = None
    missing: tuple[str, ...] = ()
    counts: Counts = field(default_factory=dict)
    engines: frozenset[str] = frozenset()
    started_unix_s: float | None = None
    now_unix_s: float | None = None

    @property
    def evidence(self) -> Evidence:
        """What the counters say of the role since the process began."""
        return roles.evidence(self.engine, self.counts)


def kind_of(body: bytes, content_type: str) -> Kind:
    """Say what a body is; the text decides, and the type it is said to be where that is unclear."""
    text = body[:2000].strip()
    if not body.strip():
        return Kind.EMPTY
    if text[:1] == b"<" or content_type == "text/html":
        return Kind.HTML
    if text[:1] in b"{[" or content_type == "application/json":
        return Kind.JSON
    return Kind.METRICS if _SAMPLE.search(body) else Kind.OTHER


class Reader:
    """Looks at pages with the engine profiles that a controller would use.

    `default` is scrape.profile; a node's own profile goes before it.
    """

    def __init__(self, book: ProfileBook, auto: ProfileBook, *, default: str) -> None:
        self._book = book
        self._auto = auto
        self.default = default
        self._parsers: dict[str, PageParser] = {}

    def look(
        self, body: bytes, content_type: str, *, node: Node, role: Role | None, date: str = ""
    ) -> Look:
        """Look at a node's page; `role` None reads it for the role that its counters show."""
        kind, size = kind_of(body, content_type), len(body)
        if kind is not Kind.METRICS:
            return Look(kind=kind, size=size)
        known = self._recognised(body, node)
        detected = "" if known is None else known.name
        engine = "" if known is None else known.extends or known.name
        try:
            samples = self._samples(engine, body)
        except PageError as broken:
            return Look(kind=kind, size=size, detected=detected, error=str(broken))
        counts = roles.counts(engine, samples)
        role = role or roles.evidence(engine, counts).role
        chosen, reading, error = self._read(body, node, role)
        missing = (
            ()
            if chosen is None or reading is None or role is None
            else (chosen.missing(reading, role))
        )
        return Look(
            kind=kind,
            size=size,
            detected=detected,
            engine=engine,
            profile="" if chosen is None else chosen.name,
            hint="" if chosen is None else chosen.hint,
            error=error,
            role=role,
            reading=reading,
            missing=missing,
            counts=counts,
            engines=_engines(engine, samples),
            started_unix_s=_started_unix_s(samples),
            now_unix_s=_unix_s(date),
        )

    def _recognised(self, body: bytes, node: Node) -> Profile | None:
        try:
            return self._auto.chosen(replace(node, profile=""), body)
        except PageError:
            return None

    def _read(
        self, body: bytes, node: Node, role: Role | None
    ) -> tuple[Profile | None, Reading | None, str]:
        """Return the profile, the reading for the role, and why there is none."""
        try:
            chosen = self._book.chosen(node, body)
            # Whether it can be read does not depend on the role.
            reading = chosen.reading(body, node_id="", role=role or Role.PROMPT, at_s=0.0)
        except PageError as error:
            return None, None, str(error)
        return chosen, None if role is None else reading, ""

    def _samples(self, engine: str, body: bytes) -> list[Sample]:
        if engine not in self._parsers:
            gauges, _ = _ENGINES.get(engine, (frozenset(), ""))
            self._parsers[engine] = PageParser({_START, *roles.wanted(engine), *gauges})
        return self._parsers[engine].samples(body)


def _engines(engine: str, samples: list[Sample]) -> frozenset[str]:
    names, label = _ENGINES.get(engine, (frozenset(), ""))
    return frozenset(s.labels[label] for s, _ in samples if s.name in names and label in s.labels)


def _started_unix_s(samples: list[Sample]) -> float | None:
    """Return when the youngest process began, None where no time is told that can be one."""
    times = [v for s, v in samples if s.name == _START and 0 < v < math.inf]
    return max(times, default=None)


def _unix_s(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
