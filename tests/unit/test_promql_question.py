"""What a Prometheus is asked, which node a series is of, and what a series is to all nodes."""

from dataclasses import replace

import pytest

from pd_autoscaler.adapters.metrics.exposition import Series
from pd_autoscaler.adapters.metrics.node_labels import NodeLabels
from pd_autoscaler.adapters.metrics.promql_answer import (
    AnswerError,
    Found,
    Row,
    Sorter,
    rows_of,
)
from pd_autoscaler.adapters.metrics.promql_query import (
    NODES_PER_QUESTION,
    SERIES_ASSUMED,
    SERIES_PER_ANSWER,
    Question,
    batches,
)
from pd_autoscaler.model.node import Role
from tests.support.pages import node

QUESTION = Question(names=["b", "a"], node_label="instance", node_values=["h:1"], matchers={})


def test_the_names_and_nodes_are_alternatives_of_plain_text() -> None:
    assert QUESTION.expression(()) == '{__name__=~"a|b",instance=~"h:1"}'


def test_what_means_something_in_a_pattern_or_a_string_is_escaped() -> None:
    odd = replace(
        QUESTION,
        node_values=["10.0.0.1:80", "[::1]:9", 'q"\\\n', "a-b_c"],
        matchers={"site": 'x"\\.*', "job": "ü"},
    )

    assert odd.expression(()) == (
        r'{__name__=~"a|b",instance=~"10\\.0\\.0\\.1:80|\\[::1\\]:9|a-b_c|q\"\\\\\n",'
        r'job="ü",site="x\"\\.*"}'
    )


def test_the_times_are_asked_for_one_name_at_a_time_and_the_oldest_counts() -> None:
    assert replace(QUESTION, matchers={"job": "e"}).expression({"b", "a"}) == (
        '{__name__=~"a|b",instance=~"h:1",job="e"} or label_replace(min by (instance) ('
        'timestamp({__name__="a",instance=~"h:1",job="e"}) or '
        'timestamp({__name__="b",instance=~"h:1",job="e"})), "pd_autoscaler_dated", "yes", "", "")'
    )


@pytest.mark.parametrize(
    ("url", "values"),
    [
        ("http://h:8000/metrics", ["n", "h:8000"]),
        ("http://h/metrics", ["n", "h:80", "h"]),
        ("http://h:80/metrics", ["n", "h:80", "h"]),
        ("https://h/metrics", ["n", "h:443", "h"]),
        ("https://h:80/metrics", ["n", "h:80"]),
        ("http://[::1]:9/metrics", ["n", "[::1]:9"]),
        ("http://me:pw@h:9/metrics", ["n", "h:9"]),
        ("http://h:99999/", ["n"]),
        ("no address", ["n"]),
        ("", ["n"]),
    ],
)
def test_a_node_is_named_by_its_id_or_by_host_and_port(url: str, values: list[str]) -> None:
    labels = NodeLabels([node("n", metrics_url=url)])

    assert list(labels.of("n")) == values
    assert [labels.node_id(value) for value in values] == ["n"] * len(values)
    assert labels.node_id("other") is None


def test_an_address_of_several_nodes_names_none_of_them_and_an_id_its_own() -> None:
    nodes = [node("a", metrics_url="http://h:1/a"), node("b", metrics_url="http://h:1/b")]
    labels = NodeLabels(
        [*nodes, node("c:1", metrics_url="http://a:1"), node("d", metrics_url="http://c:1")]
    )

    assert [list(labels.of(i)) for i in ("a", "b", "d")] == [["a"], ["b"], ["d"]]
    assert [labels.node_id(v) for v in ("h:1", "a", "c:1")] == [None, "a", "c:1"]


def test_the_same_series_of_two_nodes_is_one_object_without_what_names_the_target() -> None:
    labels = NodeLabels([node("a"), node("b")])
    rows = [
        Row({"__name__": "x", "node": i, "instance": f"{i}:1", "job": i, "engine": "0"}, 1.0, 9.0)
        for i in ("a", "b", "unknown")
    ]

    found: dict[str, Found] = {}
    Sorter("node").sort(rows, labels, found)

    assert found.keys() == {"a", "b"}
    [(of_a, _)], [(of_b, _)] = found["a"].samples, found["b"].samples
    assert of_a == Series("x", {"engine": "0"})
    assert of_a is of_b


def test_an_answer_has_as_many_nodes_as_their_series_allow() -> None:
    nodes = [node(f"n{i}") for i in range(60)] + [node("d", Role.DECODER)]
    for series, count in ((632, 3), (10, NODES_PER_QUESTION), (SERIES_PER_ANSWER + 1, 1)):
        parts = list(batches(nodes, {n.id: series for n in nodes}))

        assert [n for part in parts for n in part] == nodes
        assert {len({n.role for n in part}) for part in parts} == {1}
        assert len(parts[0]) == count
    assert list(batches([], {})) == []


def test_a_node_that_never_answered_may_have_as_many_series_as_any() -> None:
    nodes = [node(f"n{i}") for i in range(30)]
    few = SERIES_PER_ANSWER // SERIES_ASSUMED

    assert [len(part) for part in batches(nodes, {})] == [few] * (30 // few)
    assert {len(part) for part in batches(nodes, {"n0": 1000})} == {2}


@pytest.mark.parametrize("value", [[1.0, 10**400], [10**400, "1"]])
def test_a_number_past_all_numbers_is_no_answer(value: list[object]) -> None:
    with pytest.raises(AnswerError, match="OverflowError"):
        rows_of([{"metric": {"__name__": "x"}, "value": value}])
