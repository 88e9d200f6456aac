"""What the doctor concludes of agents, link ports, the fleet and the controller's surroundings."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pd_autoscaler.adapters.journal_lock import locked
from pd_autoscaler.adapters.journal_schema import opened
from pd_autoscaler.adapters.metrics.faults import Fault, Trouble
from pd_autoscaler.agent.wire import StateReply
from pd_autoscaler.doctor import site
from pd_autoscaler.doctor.agent_findings import of_agents, of_ports
from pd_autoscaler.doctor.findings import Finding, Verdict
from pd_autoscaler.doctor.fleet import of_fleet, of_published
from pd_autoscaler.doctor.prepared import local_findings, reader_of
from pd_autoscaler.doctor.seen import AgentSeen, Answer, NodeSeen, PortSeen, Reply
from pd_autoscaler.doctor.site import AdminSeen, JournalSeen, PrometheusSeen, journal_seen
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role
from pd_autoscaler.settings import LoopSettings, ScrapeSettings, Settings

OK = Answer(status=200)
GOOD: Mapping[str, Any] = {
    "version": "1.2",
    "node_id": "n1",
    "role": "prompt",
    "phase": "ready",
    "incarnation": "boot-1",
    "endpoints": [{"cluster_id": 7, "ip": "10.0.0.1", "port": 26000}],
    "engine": {"waiting": 0, "running": 1, "kv_unpulled": 0},
    "epoch": 3,
    "holder": "alice",
}


def node(
    *states: Mapping[str, Any], node_id: str = "n1", ports: tuple[PortSeen, ...] = ()
) -> NodeSeen:
    replies = [StateReply.model_validate({**GOOD, **changed}) for changed in states or ({},)]
    agents = tuple(AgentSeen(url="http://a:9500", reply=OK, state=reply) for reply in replies)
    return NodeSeen(id=node_id, role=Role.PROMPT, agents=agents, ports=ports)


def said(node: NodeSeen) -> Mapping[str, Finding]:
    return {finding.check: finding for finding in of_agents(node)}


def silent(reply: Reply, **seen: str) -> Finding:
    agent = AgentSeen(url="http://a:9500", reply=reply, **seen)  # type: ignore[arg-type]
    (finding,) = of_agents(NodeSeen(id="n1", role=Role.PROMPT, agents=(agent,)))
    return finding


def test_a_sound_agent_is_fine_in_every_check() -> None:
    assert {finding.verdict for finding in of_agents(node())} == {Verdict.OK}


@pytest.mark.parametrize(
    ("reply", "seen", "fix"),
    [
        (Trouble(Fault.REFUSED, "so said"), "http://a:9500: so said", "start the agent"),
        (Answer(status=401), "token is missing or wrong", "agent.token"),
        (Answer(status=403), "forbidden", "agent.token"),
        (Answer(status=404), "no such path", "agent_urls"),
        (OK, "no agent's answer: body: Invalid JSON", "another program"),
    ],
)
def test_an_agent_that_does_not_answer_as_one_is_a_problem(
    reply: Reply, seen: str, fix: str
) -> None:
    finding = silent(reply, why_not="body: Invalid JSON")
    assert finding.verdict is Verdict.PROBLEM
    assert seen in finding.seen
    assert fix in finding.fix


def test_one_silent_rank_does_not_hide_what_the_others_say() -> None:
    rest = node()
    mute = AgentSeen(url="http://b:9500", reply=Trouble(Fault.REFUSED, "so said"))
    whole = NodeSeen(id="n1", role=Role.PROMPT, agents=(*rest.agents, mute))
    checks = said(whole)
    assert checks["agent"].verdict is Verdict.PROBLEM
    assert checks["phase"].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("changed", "check", "verdict", "seen"),
    [
        ({"api": "v2"}, "agent API", Verdict.PROBLEM, "v2"),
        ({"phase": "finalised"}, "phase", Verdict.PROBLEM, "finalised"),
        ({"incarnation": "a+b"}, "phase", Verdict.PROBLEM, "separates ranks"),
        ({"phase": "initialising"}, "phase", Verdict.WARNING, "initialising"),
        ({"phase": "new"}, "phase", Verdict.OK, "a controller initialises it"),
        ({"phase": "new", "endpoints": []}, "endpoints", Verdict.NOT_CHECKED, "initialised"),
        ({"endpoints": []}, "endpoints", Verdict.PROBLEM, "have no endpoint"),
        ({"endpoints": [*GOOD["endpoints"]] * 2}, "endpoints", Verdict.PROBLEM, "2 endpoints"),
        ({"engine": {}}, "engine hooks", Verdict.WARNING, "waiting, running, KV not pulled"),
        (
            {"engine": {"waiting": 0, "running": 0}},
            "engine hooks",
            Verdict.WARNING,
            "its agent: KV not pulled; draining waits until its page shows no KV in use",
        ),
        (
            {"calls_hung": 2, "hung": [{"verb": "link", "cluster_ids": [1], "age_s": 9}]},
            "native calls",
            Verdict.WARNING,
            "2 (link)",
        ),
        ({"epoch": 0, "holder": ""}, "controller", Verdict.OK, "none has claimed it"),
    ],
)
def test_each_trouble_of_an_agent_is_told(
    changed: Mapping[str, Any], check: str, verdict: Verdict, seen: str
) -> None:
    finding = said(node(changed))[check]
    assert finding.verdict is verdict
    assert seen in finding.seen
    assert bool(finding.fix) is (verdict in {Verdict.WARNING, Verdict.PROBLEM})


def test_an_agent_that_is_listed_twice_is_told() -> None:
    finding = said(node({}, {}))["agent"]
    assert finding.verdict is Verdict.PROBLEM
    assert finding.seen == "one agent answers for several ranks: http://a:9500 for 2 ranks"
    assert "once in agent_urls" in finding.fix
    assert said(node({}, {"incarnation": "boot-2"}))["agent"].verdict is Verdict.OK


def test_ranks_that_differ_in_phase_or_controller_are_a_warning() -> None:
    checks = said(node({}, {"phase": "new", "holder": "bob"}))
    assert checks["phase"].verdict is Verdict.WARNING
    assert checks["controller"].verdict is Verdict.WARNING
    assert "alice (epoch 3), bob (epoch 3)" in checks["controller"].seen


def test_each_link_port_that_takes_no_connection_is_a_problem() -> None:
    good = PortSeen(place="10.0.0.1:26000", trouble=None)
    bad = PortSeen(place="10.0.0.1:26001", trouble=Trouble(Fault.NO_CONNECTION, "no connection"))
    (finding,) = of_ports(node(ports=(good,)))
    assert finding.verdict is Verdict.OK
    (finding,) = of_ports(node(ports=(good, bad)))
    assert (finding.verdict, "10.0.0.1:26001" in finding.seen) == (Verdict.PROBLEM, True)
    assert "firewall" in finding.fix


def test_link_ports_of_decoders_are_nobodys_business() -> None:
    assert not list(of_ports(node({"role": "decoder"})))


def test_cluster_ids_and_processes_must_be_unique_over_all_nodes() -> None:
    nodes = [node(), node(node_id="n2")]
    checks = {finding.check: finding for finding in of_fleet(nodes, is_meshed=True)}
    assert checks["cluster ids"].verdict is Verdict.PROBLEM
    assert "7 of n1 and n2" in checks["cluster ids"].seen
    assert checks["processes"].verdict is Verdict.PROBLEM
    unlinked = {finding.check for finding in of_fleet(nodes, is_meshed=False)}
    assert "cluster ids" not in unlinked


def test_a_sound_fleet_is_fine() -> None:
    other = {"role": "decoder", "incarnation": "b", "endpoints": [{"cluster_id": 8, "ip": "::1"}]}
    fleet = of_fleet([node(), node(other, node_id="n2")], is_meshed=True)
    assert {finding.verdict for finding in fleet} == {Verdict.OK}


@pytest.mark.parametrize("nodes", [[], [node()]])
def test_a_fleet_that_lacks_a_role_serves_nothing(nodes: list[NodeSeen]) -> None:
    roles = next(iter(of_fleet(nodes, is_meshed=True)))
    assert (roles.check, roles.verdict) == ("roles", Verdict.WARNING)


def test_agents_of_one_fleet_that_obey_two_controllers_are_a_warning() -> None:
    nodes = [node(), node({"holder": "bob", "epoch": 4, "incarnation": "b"}, node_id="n2")]
    checks = {finding.check: finding for finding in of_fleet(nodes, is_meshed=False)}
    assert checks["controller"].verdict is Verdict.WARNING


def test_a_router_with_nodes_of_no_provider_is_a_warning() -> None:
    assert of_published(frozenset({"n1"}), [node()]).verdict is Verdict.OK
    finding = of_published(frozenset({"n1", "x"}), [node()])
    assert (finding.verdict, "list: x" in finding.seen) == (Verdict.WARNING, True)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        ({"reply": OK, "healthy": True}, Verdict.OK),
        ({"reply": OK, "healthy": False, "reason": "no cycle"}, Verdict.WARNING),
        ({"reply": OK}, Verdict.PROBLEM),
        ({"reply": Trouble(Fault.REFUSED, "")}, Verdict.OK),
        ({"reply": Trouble(Fault.NO_ANSWER, "")}, Verdict.PROBLEM),
        ({"reply": Trouble(Fault.UNREACHABLE, "")}, Verdict.WARNING),
        ({"reply": Trouble(Fault.NOT_ASKED, "")}, Verdict.NOT_CHECKED),
    ],
)
def test_the_admin_port_is_free_or_ours(seen: dict[str, Any], verdict: Verdict) -> None:
    assert site.of_admin(AdminSeen(url="http://h:1", **seen)).verdict is verdict


@pytest.mark.parametrize(
    ("values", "why", "verdict"),
    [
        (frozenset({"10.0.0.1:8000"}), "", Verdict.OK),
        (frozenset(), "", Verdict.PROBLEM),
        (None, "it is not the JSON of a query", Verdict.PROBLEM),
    ],
)
def test_a_prometheus_server_must_have_targets_with_the_label(
    values: frozenset[str] | None, why: str, verdict: Verdict
) -> None:
    seen = PrometheusSeen(url="http://p", reply=OK, label="instance", values=values, why_not=why)
    assert site.of_prometheus(seen).verdict is verdict


@pytest.mark.parametrize("reply", [Trouble(Fault.REFUSED, ""), Answer(status=401)])
def test_a_prometheus_server_that_does_not_answer_is_a_problem(reply: Reply) -> None:
    seen = PrometheusSeen(url="http://p", reply=reply, label="instance")
    assert site.of_prometheus(seen).verdict is Verdict.PROBLEM
    assert site.of_target(seen, ["n1"]).verdict is Verdict.NOT_CHECKED


def test_each_node_must_be_among_the_targets() -> None:
    values = frozenset({"10.0.0.1:8000"})
    seen = PrometheusSeen(url="http://p", reply=OK, label="instance", values=values)
    assert site.of_target(seen, ["n1", "10.0.0.1:8000"]).verdict is Verdict.OK
    assert site.of_target(seen, ["n2", "10.0.0.2:8000"]).verdict is Verdict.PROBLEM


def test_a_target_that_the_server_cannot_scrape_is_a_problem_of_its_node() -> None:
    both = frozenset({"n1", "10.0.0.1:8000"})
    seen = PrometheusSeen(
        url="http://p", reply=OK, label="instance", values=both, down=frozenset({"n1"})
    )
    down = site.of_target(seen, ["n1"])
    assert (down.verdict, 'instance="n1" is down' in down.seen) == (Verdict.PROBLEM, True)
    assert site.of_target(seen, ["n1", "10.0.0.1:8000"]).verdict is Verdict.OK
    assert site.of_prometheus(seen).seen.endswith("among its targets, 1 of them down")


def test_a_target_may_be_there_with_other_labels_so_the_matchers_are_named() -> None:
    seen = PrometheusSeen(
        url="http://p", reply=OK, label="instance", matchers={"job": "b"}, values=frozenset()
    )
    for finding in (site.of_prometheus(seen), site.of_target(seen, ["n1"])):
        assert finding.seen.endswith(' and {job="b"}')
        assert "matchers" in finding.fix


@pytest.mark.parametrize(
    ("profile", "default", "where"), [("vlm", "auto", "--profile"), ("", "vlm", "scrape.profile")]
)
def test_a_profile_that_there_is_not_is_told_with_its_setting(
    profile: str, default: str, where: str
) -> None:
    settings = Settings(scrape=ScrapeSettings(profile=default))
    with pytest.raises(ConfigError, match=f"^{where}: no engine profile 'vlm', did you mean"):
        reader_of(settings, profile=profile)


def judged(seen: JournalSeen, *, has_daemon: bool = False) -> Verdict:
    return site.of_journal(seen, has_daemon=has_daemon).verdict


def test_looking_at_a_journal_that_is_not_there_makes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "journal.db"
    assert judged(journal_seen(path)) is Verdict.OK
    assert not list(tmp_path.iterdir())


def test_a_journal_is_read_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    opened(str(path), busy_timeout_s=1.0).close()
    before = path.read_bytes(), sorted(tmp_path.iterdir())
    assert judged(journal_seen(path)) is Verdict.OK
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before


def test_what_is_no_journal_is_a_problem(tmp_path: Path) -> None:
    text, folder = tmp_path / "text", tmp_path / "folder"
    text.write_text("a,b,c\n")
    folder.mkdir()
    for path in (text, folder, text / "below.db"):
        assert judged(journal_seen(path)) is Verdict.PROBLEM


def test_a_journal_that_somebody_holds_is_a_problem_unless_a_daemon_runs(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    opened(str(path), busy_timeout_s=1.0).close()
    with locked(str(path)):
        held = journal_seen(path)
    assert held.holder == os.getpid()
    assert judged(held) is Verdict.PROBLEM
    assert judged(held, has_daemon=True) is Verdict.OK
    # The file of the lock stays, and holds nothing any more.
    assert journal_seen(path).holder is None


def test_a_journal_that_may_not_be_written_is_a_problem() -> None:
    assert judged(JournalSeen(path="j", trouble="/etc cannot be written to")) is Verdict.PROBLEM
    assert judged(journal_seen(Path(":memory:"))) is Verdict.OK


@pytest.mark.parametrize(
    ("loop", "verdict"),
    [
        (LoopSettings(), Verdict.OK),
        (LoopSettings(policy="quee-pressure"), Verdict.PROBLEM),
        (LoopSettings(policy_params={"headrom": 1}), Verdict.PROBLEM),
    ],
)
def test_the_policy_is_loaded(loop: LoopSettings, verdict: Verdict) -> None:
    (finding,) = local_findings(Settings(loop=loop))
    assert (finding.check, finding.verdict) == ("policy", verdict)
