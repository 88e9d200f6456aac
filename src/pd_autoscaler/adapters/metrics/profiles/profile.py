"""Profiles: one engine's metrics in canonical names, on a prompt node and on a decoder node."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pd_autoscaler.adapters.metrics.exposition import PageError, PageParser, Sample
from pd_autoscaler.adapters.metrics.profiles.meaning import Buckets, Meanings
from pd_autoscaler.adapters.metrics.profiles.reader import Found, Reader
from pd_autoscaler.adapters.metrics.profiles.strangers import cause, cause_of_names
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Reading

_AFTER_NAME = (b"{", b" ", b"\t")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """An engine's metrics in the canonical names of `model.signals.Reading`.

    What a role exports without meaning it (a decoder counts the prompts again) is left out of
    that role's meanings, so that nothing behind a profile needs to know the engine. `prefixes`
    are tried left to right before every name. A page with one of the names `recognised_by` is the
    engine's; a profile without any is used only where it is named. `hint` says what must be
    switched on for the engine to export them, `extends` which profile this one was made from.
    """

    name: str
    meanings: Mapping[Role, Meanings]
    prefixes: Sequence[str] = ("",)
    recognised_by: Sequence[str] = ()
    rank_labels: Sequence[str] = ()
    aliases: Sequence[str] = ()
    extends: str = ""
    hint: str = ""

    @cached_property
    def signature(self) -> frozenset[str]:
        """Names by which a page is recognised, with all prefixes."""
        return frozenset(prefix + name for prefix in self.prefixes for name in self.recognised_by)

    @cached_property
    def _signs(self) -> tuple[bytes, ...]:
        return tuple(name.encode() for name in sorted(self.signature))

    @cached_property
    def _readers(self) -> Mapping[Role, Reader]:
        return {role: Reader(self.meanings[role], self.prefixes, self.rank_labels) for role in Role}

    @cached_property
    def _parsers(self) -> Mapping[Role, PageParser]:
        return {role: PageParser(reader.wanted) for role, reader in self._readers.items()}

    def wanted_by(self, role: Role) -> frozenset[str]:
        """Return the names of all samples that are read on nodes of a role."""
        return self._readers[role].wanted

    def reading(self, page: bytes, *, node_id: str, role: Role, at_s: float) -> Reading:
        """Read a page; raises PageError if it is malformed or has nothing this profile knows."""
        found = self._readers[role].found(self._parsers[role].samples(page))
        if found.is_empty:
            raise PageError(cause(page, [self], self.wanted_by(role)))
        return self._reading(found, node_id=node_id, at_s=at_s)

    def reading_of(
        self, samples: Iterable[Sample], *, node_id: str, role: Role, at_s: float
    ) -> Reading:
        """Read samples that came another way; raises PageError if this profile knows none."""
        samples = list(samples)
        found = self._readers[role].found(samples)
        if found.is_empty:
            names = [series.name for series, _ in samples]
            raise PageError(cause_of_names(names, [self], self.wanted_by(role)))
        return self._reading(found, node_id=node_id, at_s=at_s)

    def _reading(self, found: Found, *, node_id: str, at_s: float) -> Reading:
        return Reading(
            node_id=node_id,
            at_s=at_s,
            engine=self.name,
            gauges=found.gauges,
            counters=found.counters,
            histograms=found.histograms,
            lumpy=found.lumpy,
            parts=found.parts,
        )

    def missing(self, reading: Reading, role: Role) -> tuple[str, ...]:
        """Return what the page lacked of what this profile could give for the role, for people.

        Each is one line: the canonical name, the engine's names that were tried in their order,
        and, where that is known, when an engine does not have it.
        """
        meanings = self.meanings[role]
        lacking = [
            (name, meaning.ways, meaning.note)
            for name, meaning in meanings.gauges.items()
            if name not in reading.gauges
        ]
        lacking += [
            (name, meaning.ways, meaning.note)
            for name, meaning in meanings.counters.items()
            if name not in reading.counters
        ]
        texts = [
            (n, [way.text(self.prefixes[0]) for way in ways], note) for n, ways, note in lacking
        ]
        for name, wanted in meanings.histograms.items():
            has_mean = f"{name}_count" in reading.counters and not all(
                isinstance(way, Buckets) for way in wanted.ways
            )
            if name not in reading.histograms and not has_mean:
                ways = [way.text(self.prefixes[0]) for way in wanted.ways]
                texts.append((name, ways, wanted.note))
        return tuple(
            f"{name}: no {', nor '.join(ways)}" + (f" ({note})" if note else "")
            for name, ways, note in texts
        )

    def is_on(self, page: bytes) -> bool:
        """Whether a page is this engine's, told by one of the names it is recognised by."""
        return any(_has(page, name) for name in self._signs)

    def is_among(self, names: Collection[str]) -> bool:
        """Whether sample names are this engine's."""
        return any(name in self.signature for name in names)


def _has(page: bytes, name: bytes) -> bool:
    """Whether a line of the page begins with the name; a search is cheaper than a split."""
    if page.startswith(name) and page[len(name) : len(name) + 1] in _AFTER_NAME:
        return True
    return any(page.find(b"\n" + name + after) >= 0 for after in _AFTER_NAME)
