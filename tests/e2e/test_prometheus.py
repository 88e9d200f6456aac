"""A real Prometheus answers every query of the dashboards and rules, and tells of a dead link."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from tests.support.daemon import Bed, Daemon, bed, daemon, serving
from tests.support.prometheus import (
    PROMETHEUS,
    Prometheus,
    as_grafana_asks,
    impatient,
    left_side,
    need,
    prometheus,
)

pytestmark = [pytest.mark.e2e, pytest.mark.prometheus, pytest.mark.timeout(240)]

SHIPPED = Path(__file__).parents[2] / "dashboards"
PAST_S = 300.0
"""Longer than a test runs: whatever a query found while it ran."""


async def test_a_dead_link_shows_and_every_query_of_dashboards_and_rules_is_answered(
    tmp_path: Path,
) -> None:
    async with watched(tmp_path, nodes="prompt=1,decoder=2") as (made, running, asked):
        await running.until(lambda state: state["links"]["linked"] == 2, "all is linked")
        dead, newcomer = await with_a_dead_link(made, running)
        pair = {"decoder": dead, "prompt": newcomer}

        links = await running.get("/v1/links")
        states = {(p["decoder"], p["prompt"]): p["state"] for p in links["pairs"]}
        assert states[dead, newcomer] == "failed"
        await asked.until(lambda: says(asked, "link_state", pair, 4), "it is scraped as failed")
        await asked.until(lambda: says(asked, "link_up", pair, 0), "it is scraped as down")
        await asked.until(lambda: fires(asked, "PdAutoscalerLinkDown", pair), "it is told")
        await asked.until(lambda: fires(asked, "PdAutoscalerMeshIncomplete"), "so is the gap")

        # The other decoder's links are up, and nobody complains of those.
        [other] = serving(await running.get("/v1/state"), "decoder") - {dead}
        whole = {"decoder": other, "prompt": newcomer}
        await asked.until(lambda: says(asked, "link_up", whole, 1), "the rest is scraped as up")
        await asked.until(lambda: names_alone(asked, dead), "no other decoder is complained of")
        await every_query_is_answered(asked, instance=running.url.removeprefix("http://"))


async def test_a_hung_native_call_is_told(tmp_path: Path) -> None:
    async with watched(tmp_path, nodes="prompt=1,decoder=1") as (made, running, asked):
        await running.until(lambda state: state["links"]["linked"] == 1, "all is linked")
        assert not await fires(asked, "PdAutoscalerHungNativeCall")
        await next_link_of("decoder", made, running, kind="hang", calls=1)
        await running.post("/v1/target", prompt=2, decoder=1)

        await asked.until(lambda: fires(asked, "PdAutoscalerHungNativeCall"), "it is told")


async def names_alone(asked: Prometheus, decoder: str) -> bool:
    """Whether the firing alerts that name a decoder name this one only."""
    return {a["decoder"] for a in await asked.firing() if "decoder" in a} == {decoder}


@asynccontextmanager
async def watched(tmp_path: Path, *, nodes: str) -> AsyncIterator[tuple[Bed, Daemon, Prometheus]]:
    """Run a cluster, its controller, and a Prometheus with the shipped rules that watches it."""
    need(PROMETHEUS)
    rules = impatient(SHIPPED / "rules.yaml", tmp_path / "rules.yaml")
    async with bed(tmp_path, nodes=nodes) as made:
        made.change(loop={"shadow_policies": [{"policy": "queue-pressure"}]})
        async with (
            daemon(made.config, made.session) as running,
            prometheus(
                tmp_path, made.session, scraped=running.url.removeprefix("http://"), rules=rules
            ) as asked,
        ):
            yield made, running, asked


async def with_a_dead_link(made: Bed, running: Daemon) -> tuple[str, str]:
    """Have a prompt node join that one of the decoders cannot link; name the two."""
    before = {node["id"] for node in (await running.get("/v1/state"))["nodes"]}
    dead = await next_link_of("decoder", made, running, kind="fail")
    await running.post("/v1/target", prompt=2, decoder=2)
    state = await running.until(
        lambda state: state["links"]["failed"] == 1 and state["links"]["linked"] == 3,
        "one of the newcomer's links has failed, the other is up",
    )
    [newcomer] = {node["id"] for node in state["nodes"]} - before
    return dead, newcomer


async def next_link_of(role: str, made: Bed, running: Daemon, **fault: object) -> str:
    """Set a fault for the link of one node to the next node that starts; name the former."""
    state = await running.until(lambda state: bool(serving(state, role)), f"a {role} node serves")
    node_id = min(serving(state, role))
    # Cluster ids count up: the next node that starts gets the next one.
    last = max(int(e["cluster_id"]) for n in state["nodes"] for e in n["endpoints"])
    await made.fault(node_id, verb="link", cluster_id=last + 1, **fault)
    return node_id


UNTOLD = frozenset(
    {
        # The embedded engines transfer KV over no network that could fail, and no request expires.
        "KV transfers that fail",
        "PdAutoscalerTransfersFailing",
        # No prompt node of so small a cluster is busy for a whole window.
        "Prefill tokens a second",
    }
)
"""Who asks for what a small embedded cluster does not tell."""


async def says(asked: Prometheus, metric: str, labels: dict[str, str], value: float) -> bool:
    """Whether Prometheus has this value for a metric with these labels."""
    selector = ", ".join(f'{name}="{label}"' for name, label in labels.items())
    return [v for _, v in await asked.now(f"pd_autoscaler_{metric}{{{selector}}}")] == [value]


async def fires(asked: Prometheus, alert: str, labels: dict[str, str] | None = None) -> bool:
    """Whether an alert fires with these labels."""
    wanted = {"alertname": alert, **(labels or {})}
    return any(wanted.items() <= firing.items() for firing in await asked.firing())


async def every_query_is_answered(asked: Prometheus, *, instance: str) -> None:
    """Ask whatever dashboards and rules ask, until each has had a number meanwhile."""
    wanted = [query for query in queries(instance) if query[0] not in UNTOLD]
    assert await asked.unanswered(wanted) == []
    loaded = [rule for group in (await asked.ask("rules"))["groups"] for rule in group["rules"]]
    assert [rule for rule in loaded if rule["health"] != "ok"] == []
    found = await asked.ask("label/instance/values", **{"match[]": "pd_autoscaler_cycles_total"})
    assert found == [instance], "what the dashboards' list of controllers is made of"


def queries(instance: str) -> Iterator[tuple[str, str, float]]:
    """Yield who asks, what is asked, and how far back it may be: nought for a table, of now."""
    for path in sorted(SHIPPED.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expr = as_grafana_asks(target["expr"], instance=instance)
                yield panel["title"], expr, 0.0 if target.get("instant") else PAST_S
    for group in yaml.safe_load((SHIPPED / "rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                yield rule["record"], rule["record"], PAST_S
                yield rule["record"], rule["expr"], PAST_S
            else:
                yield rule["alert"], left_side(rule["expr"]), PAST_S
