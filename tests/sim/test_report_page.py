import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.records import SLOS, Change, Run
from pd_autoscaler.sim.report import colours, decisions
from pd_autoscaler.sim.report.comparison import Comparison, comparison
from pd_autoscaler.sim.report.encoding import script_json
from pd_autoscaler.sim.report.front import front
from pd_autoscaler.sim.report.page import page
from pd_autoscaler.sim.report.timeline import timeline
from pd_autoscaler.sim.score import scored
from tests.support.runs import run_of

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
SHORT_S = 1800.0


def compared(*runs: Run) -> Comparison:
    return comparison([(run, scored(run, slo)) for run in runs for slo in SLOS], SLOS)


class Outline(HTMLParser):
    """Collects the elements of a page and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id") or f"script-{len(self.scripts)}"

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


def named(figure: dict[str, Any], name: str, yaxis: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        trace for trace in figure["data"] if (trace["name"], trace["yaxis"]) == (name, yaxis)
    )
    return found


def test_a_page_needs_nothing_from_elsewhere() -> None:
    outline = Outline(page(compared(run_of(lasted_s=SHORT_S))))

    loads = [(tag, attrs) for tag, attrs in outline.tags if {"src", "data"} & attrs.keys()]
    assert not loads
    assert not [attrs for tag, attrs in outline.tags if tag in {"link", "iframe", "object"}]
    links = [attrs["href"] or "" for tag, attrs in outline.tags if "href" in attrs]
    assert all(link.startswith("#run-") for link in links)
    (policy,) = (
        attrs["content"] or ""
        for _, attrs in outline.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")


def test_plotly_is_in_the_page_once_however_many_policies_there_are() -> None:
    runs = [run_of(policy, lasted_s=SHORT_S) for policy in ("slo", "hpa", "kpa")]
    text = page(compared(*runs))

    assert len(re.findall(r"plotly\.js v\d", text)) == 1
    assert sum('id="time-' in part for part in text.split("<script")) == 3


def test_texts_from_outside_are_escaped_wherever_they_stand() -> None:
    run = run_of(EVIL, params={EVIL: EVIL}, lasted_s=SHORT_S)
    run = replace(
        run,
        scenario=EVIL,
        holds={EVIL: 2},
        changes=(Change(5.0, Target(1, 1), Target(2, 1, EVIL)),),
    )
    slos = tuple(replace(slo, name=f"{EVIL}{slo.name}") for slo in SLOS)
    pairs = [(run, scored(run, slo)) for slo in slos]
    clean, evil = (
        Outline(page(each))
        for each in (
            compared(replace(run_of(params={"a": "b"}, lasted_s=SHORT_S), changes=run.changes)),
            comparison(pairs, slos),
        )
    )

    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in clean.tags]
    for name in ("front", "time-0"):
        # Plotly reads markup out of texts: none may be left once the JSON is read.
        assert "<img" not in json.dumps(json.loads(evil.scripts[name]))


def test_a_page_stays_below_12_mb_with_many_settings_and_long_reasons() -> None:
    run = run_of(lasted_s=6 * 3600.0, rate=0.05)
    why = "<because>" * 100
    moves = tuple(
        Change(float(at_s), Target(1, 1), Target(2, 1, why)) for at_s in range(0, 21600, 2)
    )
    runs = [
        replace(run, policy=f"policy-{number}", params={"n": setting}, changes=moves)
        for number in range(20)
        for setting in range(4)
    ]
    text = page(comparison([(each, scored(each, SLOS[0])) for each in runs], SLOS[:1]))

    assert len(text.encode()) < 12_000_000
    assert "later moves are not listed" in text
    assert "60 more settings are in the table and the front" in text


def test_figures_are_such_as_plotly_knows() -> None:
    both = compared(run_of(lasted_s=SHORT_S), run_of("hpa", seed=1, lasted_s=SHORT_S))

    for figure in (front(both), timeline(run_of(lasted_s=SHORT_S), SLOS[0], points_max=500)):
        go.Figure(figure)


def test_a_timeline_has_one_time_axis_and_few_points() -> None:
    figure = timeline(run_of(lasted_s=86400.0, rate=0.1), SLOS[0], points_max=300)

    assert {trace["xaxis"] for trace in figure["data"]} == {"x"}
    assert {trace["yaxis"] for trace in figure["data"]} >= {"y", "y2", "y9"}
    assert max(len(trace["y"]) for trace in figure["data"]) <= 300


def test_the_areas_of_nodes_add_up_to_the_nodes_of_a_role() -> None:
    run = run_of(lasted_s=SHORT_S)
    figure = timeline(run, SLOS[0], points_max=180)
    areas = [trace for trace in figure["data"] if trace.get("stackgroup") == "stack3"]
    heights = np.sum([trace["y"] for trace in areas], axis=0)

    assert {trace["name"] for trace in areas} == {"serving", "starting", "leaving"}
    assert list(heights) == [sample.count(Role.PROMPT) for sample in run.samples]
    target = named(figure, "target", "y3")
    assert list(target["y"]) == [sample.target.prompt for sample in run.samples]


def test_latency_panels_show_where_the_limit_is() -> None:
    figure = timeline(run_of(lasted_s=SHORT_S), SLOS[1], points_max=100)

    limits = {shape["yref"]: shape["y0"] for shape in figure["layout"]["shapes"]}
    assert limits == {"y6": 5.0, "y7": 100.0}


def test_a_run_without_samples_or_requests_still_makes_a_page() -> None:
    nothing = replace(run_of(lasted_s=1.0, rate=0.0), samples=(), changes=(), node_seconds={})

    assert "<h2>" in page(compared(nothing))


def test_the_front_joins_the_settings_of_a_policy_from_cheap_to_dear() -> None:
    runs = [
        run_of("slo", slack=slack, params={"slack": slack}, lasted_s=SHORT_S)
        for slack in (1.5, 1.0, 2.0)
    ]
    figure = front(compared(*runs, run_of("hpa", lasted_s=SHORT_S)))

    slo, hpa = figure["data"]
    assert (slo["name"], hpa["name"]) == ("slo", "hpa")
    assert slo["x"] == sorted(slo["x"])
    assert slo["text"] == ["slack=1", "slack=1.5", "slack=2"]
    assert hpa["text"] == ["default parameters"]


def test_each_policy_keeps_its_look_and_no_two_share_one() -> None:
    names = [f"policy-{number}" for number in range(30)]
    found = colours.looks(names)

    assert len(set(found.values())) == 30
    assert colours.looks([*names, *names]) == found


def test_series_are_packed_without_loss_that_an_eye_would_see() -> None:
    packed = json.loads(script_json({"y": np.array([1.5, np.nan, 1e6])}))["y"]

    assert packed["dtype"] == "f4"
    unpacked = np.frombuffer(base64.b64decode(packed["bdata"]), "<f4")
    assert np.array_equal(unpacked, np.array([1.5, np.nan, 1e6], "f4"), equal_nan=True)


def test_what_is_no_series_is_refused() -> None:
    with pytest.raises(TypeError, match="a set has no place"):
        script_json({"y": {1}})


def test_moves_are_listed_with_time_counts_and_reason_until_the_room_is_used_up() -> None:
    moves = (
        Change(3661.0, Target(1, 2), Target(2, 2, "more prompts")),
        Change(90061.0, Target(2, 2), Target(1, 2, "fewer")),
    )
    run = replace(run_of(lasted_s=10.0), changes=moves)
    everything, left_out = decisions.rows(run, bytes_max=10_000, unit_s=60.0)

    assert left_out == 0
    assert (
        '<tr data-x="61.017"><td>1:01:01</td><td>1P:2D → 2P:2D</td><td>more prompts</td></tr>'
        in everything
    )
    assert "1d 1:01:01" in everything
    assert decisions.rows(run, bytes_max=100, unit_s=60.0)[1] == 1
    assert decisions.rows(run, bytes_max=10, unit_s=60.0) == ("", 2)
