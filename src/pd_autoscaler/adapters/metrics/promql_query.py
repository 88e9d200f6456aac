"""One question to a Prometheus: the newest value of every wanted series, and how old it is."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pd_autoscaler.model.node import Node, Role

DATED = "pd_autoscaler_dated"
"""Marks the rows that say when a node's series were sampled."""

NODES_PER_QUESTION = 25
"""Nodes that one question is about at most: all their names stand in it."""
SERIES_PER_ANSWER = 2_000
"""Series that one answer should have at most: it is decoded in one go, some 10 ms for these."""
SERIES_ASSUMED = 400
"""Series of a node as long as none has answered: one engine has less than 100, eight have 632."""

# What RE2 gives a meaning to. Prometheus looks up alternatives of plain text one by one, and
# takes a needless backslash for a pattern (prometheus/prometheus model/labels/regexp.go).
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")


@dataclass(frozen=True, slots=True)
class Question:
    """Which series to ask for: these names, on these values of a label, with these labels."""

    names: Collection[str]
    node_label: str
    node_values: Collection[str]
    matchers: Mapping[str, str]

    def expression(self, dated_by: Iterable[str]) -> str:
        """Return the PromQL: the series as they are, and per node the time of the oldest sample.

        The time is that of the series named `dated_by`. An instant vector repeats a sample for up
        to five minutes under the time of the question, so only `timestamp` tells its age; asked
        for by itself, a scrape between the two questions would make old values look new. It
        takes one name at a time, since series that differ in name alone would collide.
        """
        where = ",".join(
            [
                f"{self.node_label}=~{_one_of(self.node_values)}",
                *(f"{label}={_text(value)}" for label, value in sorted(self.matchers.items())),
            ]
        )
        values = f"{{__name__=~{_one_of(self.names)},{where}}}"
        times = " or ".join(f"timestamp({{__name__={_text(n)},{where}}})" for n in sorted(dated_by))
        if not times:
            return values
        oldest = f"min by ({self.node_label}) ({times})"
        return f'{values} or label_replace({oldest}, "{DATED}", "yes", "", "")'


def batches(nodes: Sequence[Node], series: Mapping[str, int]) -> Iterator[Sequence[Node]]:
    """Part the nodes into those that one question is about: all of one role.

    `series` is how many a node had the last time; one that had none may have as many as any.
    """
    unknown = max(series.values(), default=SERIES_ASSUMED)
    for role in Role:
        batch: list[Node] = []
        expected = 0
        for node in nodes:
            if node.role is not role:
                continue
            its = series.get(node.id, unknown)
            if batch and (len(batch) == NODES_PER_QUESTION or expected + its > SERIES_PER_ANSWER):
                yield batch
                batch, expected = [], 0
            batch.append(node)
            expected += its
        if batch:
            yield batch


def matchers_text(matchers: Mapping[str, str]) -> str:
    """Write matchers as they stand in a question, for people to look up."""
    inside = ",".join(f"{label}={_text(value)}" for label, value in sorted(matchers.items()))
    return f"{{{inside}}}"


def _one_of(texts: Collection[str]) -> str:
    return _text("|".join(_SPECIAL.sub(r"\\\g<0>", text) for text in sorted(texts)))


def _text(text: str) -> str:
    """Write a string of PromQL, whose escapes are those of Go, and so all of those of JSON."""
    return json.dumps(text, ensure_ascii=False)
