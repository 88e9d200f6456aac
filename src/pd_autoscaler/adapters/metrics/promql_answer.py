"""An answer of a Prometheus: read, and sorted by the nodes that it is about."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pd_autoscaler.adapters.metrics.exposition import Sample, Series
from pd_autoscaler.adapters.metrics.node_labels import NodeLabels
from pd_autoscaler.adapters.metrics.promql_query import DATED

SERIES_MAX = 100_000
"""Series whose meaning is remembered; past it all are forgotten."""


@dataclass(frozen=True, slots=True)
class Row:
    """One series of an answer; `at_s` is when the server evaluated it, by its own clock."""

    labels: Mapping[str, str]
    value: float
    at_s: float


class AnswerError(ValueError):
    """An answer that is none, or not a whole one; the message says why."""


def result_of(answer: bytes) -> list[Any]:
    """Return the result of an answer to an instant query (Prometheus HTTP API, `/api/v1/query`).

    Raises AnswerError on what is refused, not whole (it has warnings) or not such an answer.
    """
    try:
        told = json.loads(answer)
        if told["status"] != "success":
            raise AnswerError(f"refused: {told.get('error', told['status'])}")
        if told.get("warnings"):
            raise AnswerError(f"not a whole answer: {'; '.join(map(str, told['warnings']))}")
        if told["data"]["resultType"] != "vector":
            raise AnswerError(f"answered with a {told['data']['resultType']}, not a vector")
        result = told["data"]["result"]
        if not isinstance(result, list):
            raise TypeError(f"the result is a {type(result).__name__}")
        return result
    except AnswerError:
        raise
    except _NO_ANSWER as error:
        raise _no_answer(error, answer[:80].decode(errors="replace")) from error


def rows_of(result: Sequence[Any]) -> list[Row]:
    """Read rows of a result; those of a whole one are too many to be read in one go."""
    try:
        for row in result:
            if any(type(text) is not str for text in row["metric"].values()):
                raise AnswerError(f"has a label that is no text: {row['metric']}")
        # A row with a native histogram has no value; engines export none.
        return [
            Row(row["metric"], float(row["value"][1]), float(row["value"][0]))
            for row in result
            if "value" in row
        ]
    except AnswerError:
        raise
    except _NO_ANSWER as error:
        raise _no_answer(error, json.dumps(result[:1])[:80]) from error


_NO_ANSWER = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,  # An integer that is past all floats.
)


def _no_answer(error: Exception, shown: str) -> AnswerError:
    return AnswerError(
        f"not an answer of a Prometheus ({type(error).__name__}: {error}): {shown!r}"
    )


@dataclass(slots=True)
class Found:
    """What an answer holds of one node.

    `sampled_s` is the time of the oldest sample asked about and `evaluated_s` that of the answer,
    both by the server's clock. `jobs` are those that scrape each instance.
    """

    samples: list[Sample] = field(default_factory=list)
    jobs: dict[str, set[str]] = field(default_factory=dict)
    sampled_s: float | None = None
    evaluated_s: float = 0.0

    @property
    def twice(self) -> set[str]:
        """The jobs that scrape one and the same instance, empty if there is one of each."""
        return next((jobs for jobs in self.jobs.values() if len(jobs) > 1), set())


class Sorter:
    """Gives each node the rows that name it; the same series is the same object every time."""

    def __init__(self, node_label: str) -> None:
        self._node_label = node_label
        self._target_labels = frozenset({"job", "instance", node_label})
        self._known: dict[tuple[tuple[str, str], ...], Series] = {}

    def sort(self, rows: Iterable[Row], labels: NodeLabels, found: dict[str, Found]) -> None:
        """Add rows to what was found, by node id; those of no known node are left out."""
        for row in rows:
            node_id = labels.node_id(row.labels.get(self._node_label, ""))
            if node_id is None:
                continue
            of = found.setdefault(node_id, Found())
            if DATED in row.labels:
                times = (row.value, row.value if of.sampled_s is None else of.sampled_s)
                of.sampled_s, of.evaluated_s = min(times), row.at_s
            elif "__name__" in row.labels:
                of.samples.append((self._series(row.labels), row.value))
                instance = row.labels.get("instance", "")
                of.jobs.setdefault(instance, set()).add(row.labels.get("job", ""))

    def _series(self, labels: Mapping[str, str]) -> Series:
        """Return the series as a page has it: without what names the target."""
        text = tuple(pair for pair in labels.items() if pair[0] not in self._target_labels)
        series = self._known.get(text)
        if series is None:
            if len(self._known) >= SERIES_MAX:
                self._known.clear()
            own = {label: value for label, value in text if label != "__name__"}
            series = self._known[text] = Series(labels["__name__"], own)
        return series


def cover(undated: Iterable[Found]) -> set[str]:
    """Choose few names, so that each node has a series of one of them."""
    chosen: set[str] = set()
    left = [{series.name for series, _ in of.samples} for of in undated]
    while left := [names for names in left if names and not names & chosen]:
        counts = Counter(name for names in left for name in names)
        # The fewest series: a bucket has one for each bound.
        chosen.add(min(counts, key=lambda n: (-counts[n], n.endswith("_bucket"), n)))
    return chosen
