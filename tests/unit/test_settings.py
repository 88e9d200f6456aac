"""Settings: what is right is taken as it is, what is wrong is told in whole sentences."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from pd_autoscaler.core.ranks import RankMapping
from pd_autoscaler.core.rules import GuardRules, LinkRules, NodeRules
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.snapshot import Limits
from pd_autoscaler.settings import GuardSettings, LoopSettings, Settings, load


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _file(text: str) -> Path:
    path = Path("pd.yaml")
    path.write_text(text, encoding="utf-8")
    return path


def _refusal(path: Path | None) -> str:
    with pytest.raises(ConfigError) as refusal:
        load(path)
    return str(refusal.value)


def test_without_a_file_every_setting_has_its_default() -> None:
    assert load() == Settings()


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "loop:\n  # period_s: 3\n"])
def test_a_file_that_sets_nothing_changes_nothing(text: str) -> None:
    assert load(_file(text)) == Settings()


def test_the_file_is_read_and_the_environment_lies_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file("loop: {period_s: 20, policy: fixed-ratio, policy_params: {ratio: 2}}\n")
    monkeypatch.setenv("PD_AUTOSCALER_LOOP__PERIOD_S", "5.5")
    monkeypatch.setenv("pd_autoscaler_guard__cooldown_s", "7")
    monkeypatch.setenv("PD_AUTOSCALER_LOOP__POLICY_PARAMS__FLOOR", "3")

    settings = load(path)

    assert settings.loop.period_s == 5.5
    assert settings.loop.policy == "fixed-ratio"
    assert settings.loop.policy_params == {"ratio": 2, "floor": "3"}
    assert settings.guard.cooldown_s == 7


def test_a_static_fleet_can_come_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {
        "id": "p1",
        "role": "prompt",
        "agent_urls": ["http://p1:1"],
        "metrics_url": "http://p1:2",
    }
    monkeypatch.setenv("PD_AUTOSCALER_PROVIDER__KIND", "static")
    monkeypatch.setenv("PD_AUTOSCALER_PROVIDER__NODES", json.dumps([node]))

    assert [node.id for node in load().provider.nodes] == ["p1"]


def test_names_that_a_cluster_sets_for_its_services_are_no_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PD_AUTOSCALER_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("PD_AUTOSCALER_ADMIN_PORT", "tcp://10.0.0.1:8080")

    assert load() == Settings()


PERIOD = "loop.period_s (10)"

WRONG = [
    # The file itself.
    ("loop: [\n", "pd.yaml:2:1: not YAML: expected the node content, but found '<stream end>'"),
    ("a: b: c\n", "pd.yaml:1:5: not YAML: mapping values are not allowed here"),
    ("- 1\n", "pd.yaml:1: the file must hold sections such as `loop:`, not [1]"),
    (
        "loop: !!python/name:os.system x\n",
        (
            "pd.yaml:1:7: not YAML: could not determine a "
            "constructor for the tag 'tag:yaml.org,2002:python/name:os.system'"
        ),
    ),
    ("log: {level: info}\nloop: {}\nlog: {}\n", "pd.yaml:3: log is here again (line 1)"),
    # Names.
    (
        "loop:\n  advisory: true\n  perod_s: 5\n",
        (
            "pd.yaml:3: loop.perod_s is not a setting; did you mean loop.period_s? (known in loop: "
            "period_s, advisory, policy, policy_params, policy_deadline_s, shadow_policies, "
            "cycle_gap_min_s)"
        ),
    ),
    (
        "loop: {shadow_policies: [{policy: hpa}, {policy: kpa, name: hpa}]}\n",
        ("loop.shadow_policies names hpa 2 times; names must differ: give each a name of its own"),
    ),
    (
        "loop: {shadow_policies: [{params: {}}]}\n",
        "pd.yaml:1: loop.shadow_policies[0].policy is missing",
    ),
    (
        "loop: {shadow_policies: slo}\n",
        "pd.yaml:1: loop.shadow_policies is 'slo', and must be a list",
    ),
    (
        "loop: {policy: http}\n",
        (
            "loop.policy is http and advisor.url is missing; give the address of the service that "
            "decides"
        ),
    ),
    (
        "loop: {shadow_policies: [{policy: http}]}\n",
        (
            "loop.shadow_policies is http and advisor.url is missing; give the address of the "
            "service that decides"
        ),
    ),
    (
        "advisor: {url: 'http://a', age_max_s: 10}\n",
        (
            f"advisor.age_max_s (10) is not above {PERIOD}; an answer is read one cycle after its "
            "snapshot, and each would be too old"
        ),
    ),
    (
        "advisor: {url: 'http://a', deadline_s: 60}\n",
        (
            "advisor.deadline_s (60) is not below advisor.age_max_s (60); a slow answer would be "
            "too old when it comes"
        ),
    ),
    (
        "advisor: {token: secret, token_file: /x}\n",
        "advisor.token and advisor.token_file are both set; keep one",
    ),
    (
        "advisor: {url: 'unix:/sock'}\n",
        "pd.yaml:1: advisor.url is 'unix:/sock', and must be an address such as http://host:port",
    ),
    (
        "zzz: 1\n",
        (
            "pd.yaml:1: zzz is not a setting (known at the top: loop, advisor, scrape, "
            "attribution, capacity, guard, node, links, agent, provider, router, journal, admin, "
            "log)"
        ),
    ),
    (
        "provider: {kind: static, nodes: [{id: p1}]}\n",
        (
            "pd.yaml:1: provider.nodes[0].role is missing\n"
            "pd.yaml:1: provider.nodes[0].agent_urls is missing\n"
            "pd.yaml:1: provider.nodes[0].metrics_url is missing"
        ),
    ),
    # Types and bounds.
    (
        "loop: {period_s: 5x}\n",
        "pd.yaml:1: loop.period_s is '5x', and must be a number above 0 and at most 600",
    ),
    (
        "loop: {period_s: .nan}\n",
        "pd.yaml:1: loop.period_s is nan, and must be a number above 0 and at most 600",
    ),
    (
        "loop: {period_s: yes}\n",
        "pd.yaml:1: loop.period_s is true, and must be a number, not yes or no",
    ),
    (
        "loop: {period_s: }\n",
        ("pd.yaml:1: loop.period_s is empty, and must be a number above 0 and at most 600"),
    ),
    (
        "loop: {advisory: perhaps}\n",
        ("pd.yaml:1: loop.advisory is 'perhaps', and must be true or false"),
    ),
    (
        "loop: {policy: 3}\n",
        ("pd.yaml:1: loop.policy is 3, and must be text of at least 1 character"),
    ),
    (
        "loop: {policy_params: 3}\n",
        ("pd.yaml:1: loop.policy_params is 3, and must be a mapping of names to values"),
    ),
    (
        "guard: {nodes_max: 2.5}\n",
        ("pd.yaml:1: guard.nodes_max is 2.5, and must be a whole number at least 2"),
    ),
    ("guard: {ratio_min: -1}\n", "pd.yaml:1: guard.ratio_min is -1, and must be a number above 0"),
    (
        "links: {timeout_ms: 199}\n",
        (
            "pd.yaml:1: links.timeout_ms is 199, and must be a whole "
            "number at least 200 and at most 600000"
        ),
    ),
    ("scrape: fast\n", "pd.yaml:1: scrape is 'fast', and must be a section of settings"),
    (
        "provider: {kind: k8s}\n",
        ("pd.yaml:1: provider.kind is 'k8s', and must be one of process, static"),
    ),
    (
        "router: {url: 'ftp://x'}\n",
        ("pd.yaml:1: router.url is 'ftp://x', and must be an address such as http://host:port"),
    ),
    (
        "router: {url: 'http://x:port'}\n",
        (
            "pd.yaml:1: router.url is 'http://x:port', and must be "
            "an address such as http://host:port"
        ),
    ),
    (
        (
            "provider:\n  nodes:\n  - id: a b\n    role: cook\n    agent_urls: [http://a]\n"
            "    metrics_url: http://a\n"
        ),
        (
            "pd.yaml:3: provider.nodes[0].id is 'a b', and must be a name of letters, digits, '.', "
            "'_' and '-'\n"
            "pd.yaml:4: provider.nodes[0].role is 'cook', and must be one of prompt, decoder"
        ),
    ),
    # A wrong token is never shown.
    (
        "agent: {token: 123456789}\n",
        ("pd.yaml:1: agent.token is set, and must be quoted text of at least 8 characters"),
    ),
    (
        "admin: {token: short}\n",
        ("pd.yaml:1: admin.token is set, and must be quoted text of at least 8 characters"),
    ),
    # What must fit together.
    (
        "loop: {policy_deadline_s: 10}\n",
        (
            f"loop.policy_deadline_s (10) is not below {PERIOD}; a "
            "policy that hangs would make every cycle late"
        ),
    ),
    (
        "loop: {cycle_gap_min_s: 11}\n",
        (f"loop.cycle_gap_min_s (11) is above {PERIOD}; no cycle would keep its period"),
    ),
    (
        "scrape: {deadline_s: 10}\n",
        (
            f"scrape.jitter_s + scrape.deadline_s (0.5 + 10) is not below {PERIOD}; one silent "
            "node would make every cycle late"
        ),
    ),
    (
        "scrape: {deadline_s: 4, jitter_s: 6}\n",
        (
            f"scrape.jitter_s + scrape.deadline_s (6 + 4) is not below {PERIOD}; one silent "
            "node would make every cycle late"
        ),
    ),
    (
        "scrape: {source: promql, promql: {url: 'http://p'}, deadline_s: 10}\n",
        (
            f"scrape.jitter_s + scrape.deadline_s (0 + 10) is not below {PERIOD}; one silent "
            "node would make every cycle late"
        ),
    ),
    (
        "scrape: {source: promql, promql: {url: 'http://p'}, jitter_s: 0, concurrency_max: 8}\n",
        (
            "scrape.jitter_s is set and scrape.source is promql; it would be ignored\n"
            "scrape.concurrency_max is set and scrape.source is promql; it would be ignored"
        ),
    ),
    (
        (
            "scrape: {source: agents, size_max_bytes: 1000, concurrency_max: 8, jitter_s: 0, "
            "deadline_s: 10, profile: vllm}\n"
        ),
        (
            "scrape.jitter_s is set and scrape.source is agents; it would be ignored\n"
            "scrape.concurrency_max is set and scrape.source is agents; it would be ignored\n"
            "scrape.profile is set and scrape.source is agents; it would be ignored\n"
            "scrape.deadline_s is set and scrape.source is agents; it would be ignored\n"
            "scrape.size_max_bytes is set and scrape.source is agents; it would be ignored"
        ),
    ),
    *(
        (
            f"scrape: {{source: promql, promql: {{url: 'http://p/{behind}'}}}}\n",
            (
                "scrape.promql.url has a query or fragment, in which the API's path would be lost; "
                "give the address without '?' and '#'"
            ),
        )
        for behind in ("?tenant=a", "#graph", "?")
    ),
    (
        "scrape: {age_max_s: 5}\n",
        (f"scrape.age_max_s (5) is below {PERIOD}; every second cycle would hold"),
    ),
    (
        "scrape: {window_s: 9}\n",
        (
            f"scrape.window_s (9) is below {PERIOD}; no window would hold the "
            "two pages that a rate needs"
        ),
    ),
    (
        "node: {lost_after_s: 9}\n",
        (f"node.lost_after_s (9) is below {PERIOD}; one missed answer would count as a lost node"),
    ),
    (
        "guard: {prompt_min: 5, prompt_max: 4}\n",
        ("guard.prompt_min (5) is above guard.prompt_max (4); no target would be allowed"),
    ),
    (
        "guard: {decoder_min: 5, decoder_max: 4}\n",
        ("guard.decoder_min (5) is above guard.decoder_max (4); no target would be allowed"),
    ),
    (
        "guard: {prompt_min: 3, decoder_min: 4, nodes_max: 6}\n",
        (
            "guard.prompt_min + "
            "guard.decoder_min (3 + 4) is above guard.nodes_max (6); no target would be allowed"
        ),
    ),
    (
        "guard: {up_window_s: 301}\n",
        (
            "guard.up_window_s (301) is above guard.down_window_s (300); "
            "the cluster would shrink sooner than it grows"
        ),
    ),
    (
        "guard: {ratio_min: 2, ratio_max: 1.5}\n",
        ("guard.ratio_min (2) is above guard.ratio_max (1.5); no target would be allowed"),
    ),
    (
        "guard: {ratio_min: 5, prompt_max: 4}\n",
        (
            "guard.ratio_min (5) cannot be reached with "
            "guard.prompt_max (4) and guard.decoder_min (1); no target would be allowed"
        ),
    ),
    (
        "guard: {ratio_max: 0.2, decoder_max: 4}\n",
        (
            "guard.ratio_max (0.2) cannot be reached with "
            "guard.prompt_min (1) and guard.decoder_max (4); no target would be allowed"
        ),
    ),
    (
        "links: {deadline_s: 3}\n",
        (
            "links.deadline_s (3) is not above links.timeout_ms (3000); "
            "every slow link would be given up before the library does"
        ),
    ),
    (
        "links: {has_tls: true, timeout_ms: 1999}\n",
        (
            "links.timeout_ms (1999) is below 2000 and links.has_tls is true; links over TLS "
            "would time out: set links.timeout_ms to 2000 or more"
        ),
    ),
    (
        "links: {linker: none, probe_period_s: 60}\n",
        "links.probe_period_s is set and links.linker is none; it would be ignored",
    ),
    (
        "links: {linker: mooncake}\n",
        "pd.yaml:1: links.linker is 'mooncake', and must be one of datadist, none",
    ),
    (
        "links: {ranks: one-to-one}\n",
        "pd.yaml:1: links.ranks is 'one-to-one', and must be one of one_to_one, modulo, all_to_all",
    ),
    (
        "links: {probe_period_s: 0.5}\n",
        (
            "pd.yaml:1: links.probe_period_s is 0.5, and must be a number at least 1 and at most "
            "86400"
        ),
    ),
    (
        "links: {has_tls: 2}\n",
        "pd.yaml:1: links.has_tls is 2, and must be true or false",
    ),
    (
        "links: {join_deadline_s: 10}\n",
        (
            "links.join_deadline_s (10) is not above links.deadline_s "
            "(10); a decoder would be withdrawn before its first try ends"
        ),
    ),
    (
        "links: {backoff_s: 61}\n",
        (
            "links.backoff_s (61) is above links.backoff_max_s (60); the "
            "first wait would be longer than the longest"
        ),
    ),
    (
        "links: {publish_quorum: 0.9}\n",
        (
            "links.publish_quorum (0.9) is below 1 and a router of "
            "kind builtin is not pair-aware; requests would go to pairs without a link"
        ),
    ),
    (
        "provider: {kind: static, url: 'http://s'}\n",
        (
            "provider.kind is static and provider.nodes "
            "is empty; list the nodes that run\nprovider.url is set and provider.kind is "
            "static; it "
            "would be ignored"
        ),
    ),
    (
        "router: {kind: none, url: 'http://s'}\n",
        ("router.url is set and router.kind is none; it would be ignored"),
    ),
    (
        "journal: {keep_s: 60}\n",
        (
            "journal.keep_s (60) is below guard.down_window_s (300); a "
            "restart could not rebuild the window"
        ),
    ),
    (
        "admin: {token: '12345678', token_file: t}\n",
        ("admin.token and admin.token_file are both set; keep one"),
    ),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text[:40] for text, _ in WRONG])
def test_what_is_wrong_is_told_with_its_place_and_the_fix(text: str, message: str) -> None:
    assert _refusal(_file(text)) == message


def test_a_cycle_of_agents_alone_waits_for_no_page() -> None:
    text = "loop: {period_s: 2, policy_deadline_s: 1}\nscrape: {source: agents}\n"

    assert load(_file(text)).loop.period_s == 2


@pytest.mark.parametrize("source", ["agents", "promql, promql: {url: 'http://p'}"])
def test_what_is_loaded_is_right_when_all_of_it_is_written_down(source: str) -> None:
    settings = load(_file(f"scrape: {{source: {source}}}\n"))

    assert Settings.model_validate(settings.model_dump()) == settings


def test_several_problems_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file("loop: {period_s: -1}\nguard:\n  prompt_mni: 1\n")
    monkeypatch.setenv("PD_AUTOSCALER_LINKS__TIMEOUT_MS", "fast")

    assert _refusal(path).splitlines() == [
        "pd.yaml:1: loop.period_s is -1, and must be a number above 0 and at most 600",
        (
            "pd.yaml:3: guard.prompt_mni is not a setting; did you mean guard.prompt_min? "
            "(known in "
            "guard: prompt_min, prompt_max, decoder_min, decoder_max, nodes_max, ratio_min, "
            "ratio_max, up_window_s, down_window_s, cooldown_s, step_up_max, step_down_max, "
            "fresh_quorum, transfer_failure_share, pay_back_max_s)"
        ),
        (
            "environment PD_AUTOSCALER_LINKS__TIMEOUT_MS: links.timeout_ms is 'fast', and "
            "must be a "
            "whole number at least 200 and at most 600000"
        ),
    ]


def test_two_nodes_of_one_name_are_refused() -> None:
    node = "{id: p1, role: prompt, agent_urls: ['http://a'], metrics_url: 'http://a'}"
    path = _file(f"provider: {{kind: static, nodes: [{node}, {node}]}}\n")

    assert _refusal(path) == "provider.nodes names p1 2 times; ids must differ"


def _fleet(links: str = "", **agents: str) -> Path:
    """A static fleet: the agents of each node, by name."""
    nodes = ", ".join(
        f"{{id: {name}, role: {'prompt' if name[0] == 'p' else 'decoder'}, agent_urls: "
        f"[{', '.join(repr(f'http://{url}') for url in urls.split())}], metrics_url: 'http://m'}}"
        for name, urls in agents.items()
    )
    return _file(f"provider: {{kind: static, nodes: [{nodes}]}}\nlinks: {{{links}}}\n")


@pytest.mark.parametrize(
    ("agents", "message"),
    [
        (
            {"p1": "a:1 a:2", "d1": "a:2/"},
            (
                "provider.nodes gives the agent http://a:2 to p1 and d1; every rank has an agent "
                "of its own"
            ),
        ),
        (
            {"p1": "a:1 a:1"},
            (
                "provider.nodes gives the agent http://a:1 to p1 2 times; every rank has an agent "
                "of its own"
            ),
        ),
    ],
)
def test_an_agent_of_two_ranks_is_refused(agents: dict[str, str], message: str) -> None:
    assert _refusal(_fleet(**agents)) == message


def test_nodes_of_different_rank_counts_are_refused_only_where_they_cannot_be_paired() -> None:
    uneven = {"p1": "a:1 a:2 a:3 a:4", "p2": "a:5 a:6", "d1": "a:7 a:8", "d2": "a:9 a:10"}

    assert _refusal(_fleet("ranks: one_to_one", **uneven)) == (
        "links.ranks (one_to_one) needs nodes with equally many ranks, and p1 has 4 agent_urls "
        "and d1 has 2; set links.ranks to modulo or all_to_all"
    )
    for links in ("", "ranks: all_to_all", "ranks: one_to_one, linker: none"):
        assert len(load(_fleet(links, **uneven)).provider.nodes) == 4
    del uneven["p1"]
    assert len(load(_fleet("ranks: one_to_one", **uneven)).provider.nodes) == 3


def test_how_nodes_are_linked_and_switched_reaches_the_rules() -> None:
    rules = load(
        _file(
            "links: {ranks: all_to_all, linker: none}\nnode: {switch_timeout_s: 9}\n"
            "guard: {pay_back_max_s: 99}\n"
        )
    ).rules()

    assert (rules.link.ranks, rules.link.is_meshed) == (RankMapping.ALL_TO_ALL, False)
    assert (rules.node.switch_timeout_s, rules.guard.pay_back_max_s) == (9, 99)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "PD_AUTOSCALER_LOPP__PERIOD_S",
            "5",
            (
                "environment PD_AUTOSCALER_LOPP__PERIOD_S: lopp is not a setting; did you "
                "mean loop? "
                "(known at the top: loop, advisor, scrape, attribution, capacity, guard, node, "
                "links, agent, provider, router, journal, admin, log)"
            ),
        ),
        (
            "PD_AUTOSCALER_LOG__LEVLE",
            "info",
            (
                "environment PD_AUTOSCALER_LOG__LEVLE: log.levle is not a setting; did you mean "
                "log.level? (known in log: level)"
            ),
        ),
        (
            "PD_AUTOSCALER_LOOP_PERIOD_S",
            "5",
            (
                "environment PD_AUTOSCALER_LOOP_PERIOD_S is not a setting; did you mean "
                "PD_AUTOSCALER_LOOP__PERIOD_S?"
            ),
        ),
        (
            "PD_AUTOSCALER_PROVIDER__NODES",
            "[{",
            (
                "environment PD_AUTOSCALER_PROVIDER__NODES: not JSON: Expecting property name "
                "enclosed in double quotes: line 1 column 3 (char 2)"
            ),
        ),
    ],
)
def test_a_wrong_variable_is_named(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    assert _refusal(None) == message


def test_a_file_that_is_not_there_or_not_text_is_named() -> None:
    Path("latin1.yaml").write_bytes(b"log: {level: \xff}")

    assert _refusal(Path("gone.yaml")) == "gone.yaml cannot be read: No such file or directory"
    assert _refusal(Path()) == ". cannot be read: Is a directory"
    assert _refusal(Path("latin1.yaml")) == "latin1.yaml is not UTF-8 text: byte 13 is wrong"


def test_a_file_that_refers_to_itself_is_refused_and_does_not_hang() -> None:
    assert _refusal(_file("loop: &loop\n  policy: *loop\n")).startswith("pd.yaml:2: loop.policy is")


def test_a_token_comes_from_its_file_and_is_not_shown() -> None:
    Path("token").write_text("correct horse\n", encoding="utf-8")

    settings = load(_file("agent: {token_file: token}\n"))

    assert settings.agent.token is not None
    assert settings.agent.token.get_secret_value() == "correct horse"
    assert "correct horse" not in repr(settings)
    assert Settings.model_validate(settings.model_dump()) == settings


def test_a_token_file_that_is_missing_or_too_short_is_named() -> None:
    Path("token").write_text("short\n", encoding="utf-8")

    assert _refusal(_file("agent: {token_file: token}\n")) == (
        "agent.token_file: token must hold at least 8 characters"
    )
    assert _refusal(_file("admin: {token_file: none}\n")) == (
        "admin.token_file: none cannot be read: No such file or directory"
    )


def test_settings_cannot_change_and_are_checked_when_built_in_code() -> None:
    settings = Settings(loop=LoopSettings(period_s=6))

    with pytest.raises(ValidationError, match="frozen"):
        settings.loop.period_s = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match=r"guard\.ratio_min \(2\) is above"):
        Settings(guard=GuardSettings(ratio_min=2, ratio_max=1))


def test_the_limits_are_the_guard_settings() -> None:
    guard = GuardSettings(
        prompt_min=2, prompt_max=3, decoder_min=4, decoder_max=5, nodes_max=8, ratio_max=0.75
    )

    assert Settings(guard=guard).limits() == Limits(
        prompt_min=2, prompt_max=3, decoder_min=4, decoder_max=5, nodes_max=8, ratio_max=0.75
    )


def test_the_defaults_of_the_rules_are_those_of_the_settings() -> None:
    rules = Settings().rules()

    assert rules.node == NodeRules()
    assert rules.link == LinkRules()
    assert rules.guard == GuardRules(limits=Settings().limits())
    assert Settings().rules(keeps_standby=True).node.keeps_standby
