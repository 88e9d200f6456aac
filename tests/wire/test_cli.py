"""The command line against a live admin API: what it prints, and with which code it ends."""

import asyncio
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest
import typer

from pd_autoscaler import __version__
from pd_autoscaler.admin.links_view import links_view
from pd_autoscaler.admin.state_view import state_view
from pd_autoscaler.cli import inspect, invoke
from pd_autoscaler.cli.console import DEFAULT_URL, duration, plain
from pd_autoscaler.cli.moments import moment_of
from pd_autoscaler.cli.tables import remarks, troubled
from pd_autoscaler.model.link import LinkState, Wait
from tests.support.admin import (
    NOW_S,
    TOKEN,
    AdminParts,
    StandInControl,
    StandInJournal,
    a_rich_history,
    a_rich_past,
    a_rich_report,
    served,
)
from tests.support.reports import START_UNIX_S, a_report

HERE = Path(__file__).parent
NOBODY = "http://127.0.0.1:1"


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    error: str


async def run(*arguments: str, url: str = NOBODY, **env: str) -> Ran:
    """Run a command in a process of its own; `url` goes by the environment."""
    variables = {"PATH": "", "TZ": "UTC", "PD_AUTOSCALER_URL": url, **env}
    done = await anyio.run_process(
        [sys.executable, "-m", "pd_autoscaler", *arguments], check=False, env=variables
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


Here = Callable[..., Ran]


@pytest.fixture(name="here")
def _here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Run a command in this process, which is quicker."""
    monkeypatch.setenv("COLUMNS", "80")

    def run_here(*arguments: str, **env: str) -> Ran:
        for name, value in {"PD_AUTOSCALER_URL": NOBODY, **env}.items():
            monkeypatch.setenv(name, value)
        code = invoke(list(arguments))
        return Ran(code, *capsys.readouterr())

    return run_here


async def beside(here: Here, *arguments: str, **env: str) -> Ran:
    """Run a command in a thread of this process, beside the API that it asks."""
    return await asyncio.to_thread(here, *arguments, **env)


def rich_parts() -> AdminParts:
    """Return an API with much to show."""
    return AdminParts(
        control=StandInControl(a_rich_report()),
        journal=StandInJournal(a_rich_history(), a_rich_past()),
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("status", ("status", "--links")),
        ("history", ("history",)),
        ("explain", ("explain", "prompt-3")),
        ("explain_scaling", ("explain",)),
    ],
)
async def test_answers_are_tables_for_people(name: str, arguments: tuple[str, ...]) -> None:
    async with served(rich_parts()) as url:
        ran = await run(*arguments, url=url)

    assert (ran.code, ran.error) == (0, "")
    shown = "".join(f"{line.rstrip()}\n" for line in ran.out.splitlines())
    assert shown == (HERE / f"cli_{name}.txt").read_text()


async def test_json_is_what_the_api_said(here: Here) -> None:
    report = a_rich_report()
    state = state_view(report, now_s=NOW_S, version="1.2.3")
    links = links_view(report, now_s=NOW_S, pairs_max=100)
    async with served(rich_parts()) as url:
        plainly = await beside(here, "status", "--json", PD_AUTOSCALER_URL=url)
        linked = await beside(here, "status", "--links", "--json", PD_AUTOSCALER_URL=url)
        history = await beside(here, "history", "--limit", "2", "--json", PD_AUTOSCALER_URL=url)

    assert (plainly.code, json.loads(plainly.out)) == (0, state)
    assert (linked.code, json.loads(linked.out)) == (0, {**state, "links": links})
    assert (history.code, json.loads(history.out)) == (0, {"entries": a_rich_history()[:2]})


@pytest.mark.parametrize(
    ("arguments", "sentence", "answer", "told"),
    [
        (
            ("pause",),
            "paused: the target stays, repairs go on; 'pd-autoscaler resume' ends it\n",
            {"mode": "paused"},
            "pause everything=False",
        ),
        (
            ("pause", "--all"),
            "stopped: no action is taken at all; 'pd-autoscaler resume' ends it\n",
            {"mode": "stopped"},
            "pause everything=True",
        ),
        (("resume",), "active: the policy decides again\n", {"mode": "active"}, "resume"),
        (
            ("scale", "--prompt", "2", "--decoder", "3"),
            "target 2P:3D; the policy is paused until 'pd-autoscaler resume'\n",
            {"prompt": 2, "decoder": 3, "why": "an operator asked for it"},
            "scale 2P:3D",
        ),
        (
            ("drain", "decoder-1"),
            "decoder-1 is asked to leave; 'pd-autoscaler status' shows it\n",
            {"node": "decoder-1"},
            "drain decoder-1",
        ),
    ],
)
async def test_a_command_reaches_the_daemon_and_says_what_came_of_it(
    here: Here, arguments: tuple[str, ...], sentence: str, answer: dict[str, object], told: str
) -> None:
    parts = rich_parts()
    async with served(parts) as url:
        assert await beside(here, *arguments, PD_AUTOSCALER_URL=url) == Ran(0, sentence, "")
        ran = await beside(here, *arguments, "--json", PD_AUTOSCALER_URL=url)

    assert (ran.code, json.loads(ran.out), ran.error) == (0, answer, "")
    assert parts.control.told == [told, told]


async def test_the_token_comes_from_the_option_or_the_environment(here: Here) -> None:
    parts = rich_parts()
    parts.token = TOKEN
    async with served(parts) as url:
        without = await beside(here, "resume", PD_AUTOSCALER_URL=url)
        by_option = await beside(here, "resume", "--token", TOKEN, "--url", url)
        by_variable = await beside(here, "resume", PD_AUTOSCALER_URL=url, PD_AUTOSCALER_TOKEN=TOKEN)

    assert (without.code, without.out) == (2, "")
    assert without.error == (
        "error: /v1/resume was asked with no bearer token; send the daemon's admin token as "
        "'Authorization: Bearer TOKEN' (pd-autoscaler: --token or PD_AUTOSCALER_TOKEN)\n"
    )
    assert (by_option.code, by_variable.code) == (0, 0)


WHERE = "(--url or PD_AUTOSCALER_URL)"
HELP = "('--help' lists what there is)"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("drian",), f"No such command 'drian'. Did you mean 'drain'? {HELP}"),
        (("status", "--lnks"), f"No such option: --lnks (Possible options: --links) {HELP}"),
        (("scale", "--prompt", "1"), f"Missing option '--decoder'. {HELP}"),
        (("drain",), f"Missing argument 'node'. {HELP}"),
        (
            ("explain", "p1", "d1", "d2"),
            f"Invalid value: 3 names: give a node, or a decoder and a prompt {HELP}",
        ),
        (
            ("status", "--url", "localhost"),
            f"'localhost' is not the address of a daemon; give one as {DEFAULT_URL} {WHERE}",
        ),
        (("check-config", "/no/such"), "/no/such cannot be read: No such file or directory"),
    ],
)
def test_wrong_input_is_one_sentence_and_code_2(
    here: Here, arguments: tuple[str, ...], error: str
) -> None:
    assert here(*arguments) == Ran(2, "", f"error: {error}\n")


def test_an_empty_address_is_refused_and_not_taken_for_the_default(here: Here) -> None:
    fix = f"is empty; give the daemon's admin address, such as {DEFAULT_URL}, or"

    for command in ("status", "resume"):
        by_variable = here(command, PD_AUTOSCALER_URL="")
        by_option = here(command, "--url", "")

        assert by_variable == Ran(2, "", f"error: PD_AUTOSCALER_URL {fix} unset it\n")
        assert by_option == Ran(2, "", f"error: --url {fix} leave it out\n")


async def test_an_address_given_by_option_goes_over_an_empty_variable(here: Here) -> None:
    parts = rich_parts()
    async with served(parts) as url:
        ran = await beside(here, "resume", "--url", url, PD_AUTOSCALER_URL="")

    assert (ran.code, parts.control.told) == (0, ["resume"])


async def test_what_the_daemon_refuses_is_one_sentence_and_code_2(here: Here) -> None:
    async with served(rich_parts()) as url:
        ran = await beside(here, "scale", "--prompt", "9", "--decoder", "1", PD_AUTOSCALER_URL=url)

    error = "error: prompt=9 is above guard.prompt_max=4; ask for 4 or fewer\n"
    assert ran == Ran(2, "", error)


async def test_explain_takes_a_pair_a_node_or_nothing(here: Here) -> None:
    async with served(rich_parts()) as url:
        pair = await beside(here, "explain", "decoder-2", "prompt-3", PD_AUTOSCALER_URL=url)
        everything = await beside(here, "explain", "--json", PD_AUTOSCALER_URL=url)
        nobody = await beside(here, "explain", "decoder-9", PD_AUTOSCALER_URL=url)

    assert (pair.code, pair.out.splitlines()[0]) == (0, "decoder-2 - prompt-3")
    tried = "  tried 40 s ago: link ended unknown after 12 s: no answer within 12 s"
    assert tried in pair.out.splitlines()
    assert [p["decoder"] for p in json.loads(everything.out)["pairs"]] == ["decoder-1", "decoder-2"]
    assert (nobody.code, nobody.out) == (2, "")
    assert nobody.error.startswith("error: there is no node 'decoder-9'; there are decoder-0, ")


async def test_explain_counts_what_it_leaves_out_and_says_when_all_is_up(here: Here) -> None:
    parts = rich_parts()
    parts.limits = {"explained_max": 1}
    async with served(parts) as url:
        some = await beside(here, "explain", PD_AUTOSCALER_URL=url)
        parts.control.latest = a_report()
        none = await beside(here, "explain", PD_AUTOSCALER_URL=url)

    assert some.out.splitlines()[-1] == "1 more pairs are wanted and not up"
    assert (none.code, none.error) == (0, "")
    assert none.out.splitlines()[-1] == "every pair that is wanted is up"


async def test_where_engines_connect_by_themselves_the_links_are_said_to_be_off(here: Here) -> None:
    parts = rich_parts()
    parts.control.latest = replace(a_rich_report(), links=(), waits=(), is_meshed=False)
    off = "engines connect by themselves, links are off (links.linker: none)"
    async with served(parts) as url:
        status = await beside(here, "status", "--links", PD_AUTOSCALER_URL=url)
        everything = await beside(here, "explain", PD_AUTOSCALER_URL=url)
        pair = await beside(here, "explain", "decoder-2", "prompt-3", PD_AUTOSCALER_URL=url)

    said = " ".join(status.out.split())
    assert f"links {off}; hung calls: decoder-1 1" in said
    assert "decoder \\ prompt" not in status.out
    assert (everything.code, everything.out.splitlines()[-1]) == (0, off)
    assert f"  not wanted: {off}" in pair.out.splitlines()


async def test_explain_at_a_past_time_says_how_far_the_cycle_is_from_it(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "_now_unix_s", lambda: START_UNIX_S + 600.0)
    parts = rich_parts()
    parts.journal.reports = [a_rich_report(cycle=900)]
    async with served(parts) as url:
        past = await beside(here, "explain", "--at", "9m58s", PD_AUTOSCALER_URL=url)
        as_json = await beside(here, "explain", "--at", "2m", "--json", PD_AUTOSCALER_URL=url)
        node = await beside(here, "explain", "prompt-3", "--at", "1m", PD_AUTOSCALER_URL=url)
        before = await beside(here, "explain", "--at", "1h", PD_AUTOSCALER_URL=url)

    then = datetime.fromtimestamp(START_UNIX_S).astimezone()
    assert past.out.splitlines()[:2] == [
        (
            f"as it was at {then:%Y-%m-%d %H:%M:%S}, 2.0s before the time asked for; "
            "ages and waits are of then"
        ),
        "scaling in cycle 900",
    ]
    assert json.loads(as_json.out)["cycle"] == 900
    assert "scaling" not in node.out
    assert node.out.splitlines()[1] == "prompt-3"
    assert (before.code, before.out) == (2, "")
    assert before.error.startswith("error: no cycle is kept from 2023-11-14 21:23:20 UTC or before")


async def test_a_time_that_is_none_is_refused_before_anybody_is_asked(here: Here) -> None:
    assert here("explain", "--at", "noon").error == (
        "error: Invalid value: --at 'noon' is not a time; give seconds since 1970, ISO 8601 "
        f"(2026-08-02T10:20), HH:MM[:SS] of today, or 10m, 2h, 1d12h ago {HELP}\n"
    )


def test_the_guard_tells_what_its_gates_say_once() -> None:
    gate = {"reason": "cooldown", "role": None, "detail": "43 s left"}
    target = {"kind": "target", "prompt": 1, "decoder": 2, "why": ""}
    hold = {"kind": "hold", "reason": "cooldown", "detail": "43 s left; 1P:2D wanted"}

    def told(**state: object) -> list[str]:
        return inspect._guard_lines({"decision": target, "guarded": hold, "gates": [gate]} | state)

    assert told() == ["guard      hold (cooldown)", "gate       cooldown: 43 s left"]
    bare = {**gate, "role": "prompt", "detail": ""}
    assert told(gates=[bare]) == [
        "guard      hold (cooldown): 43 s left; 1P:2D wanted",
        "gate       cooldown (prompt)",
    ]
    assert told(guarded=target, gates=[]) == ["guard      as the policy"]
    assert told(decision=hold) == ["guard      as the policy"]


NOON = datetime(2026, 8, 2, 12, 0, 0).astimezone().timestamp()


@pytest.mark.parametrize(
    ("text", "ago_s"),
    [
        (str(NOON - 90.5), 90.5),
        ("2026-08-02T11:59", 60.0),
        ("2026-08-02 11:59:30", 30.0),
        (datetime.fromtimestamp(NOON - 5, UTC).isoformat(), 5.0),
        ("2026-08-02", 43_200.0),
        ("11:58", 120.0),
        ("9:00", 10_800.0),
        (" 11:58:30 ", 90.0),
        ("12:00", 0.0),
        ("10m", 600.0),
        ("2h", 7200.0),
        ("2h05m", 7500.0),
        ("1d12h ago", 129_600.0),
        ("90s", 90.0),
        ("5min ago", 300.0),
    ],
)
def test_a_past_time_may_be_typed_in_any_of_these_forms(text: str, ago_s: float) -> None:
    assert NOON - moment_of(text, now_unix_s=NOON) == pytest.approx(ago_s)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is not a time"),
        ("ago", "is not a time"),
        ("nan", "is not a time"),
        ("25:00", "is not a time"),
        ("2026-02-30", "is not a time"),
        ("0001-01-01T00:00+14:00", "is not a time"),
        ("-5m", "is not a time"),
        ("12:01", "is still to come"),
        ("2026-08-03", "is still to come"),
        (str(NOON + 1), "is still to come"),
    ],
)
def test_what_names_no_past_time_is_refused(text: str, fault: str) -> None:
    with pytest.raises(typer.BadParameter, match=fault):
        moment_of(text, now_unix_s=NOON)


def test_a_node_that_takes_longer_than_the_median_is_late_and_not_overdue() -> None:
    state = state_view(a_rich_report(), now_s=NOW_S + 60.0, version="1")

    assert "prompt-3: 2 of 4 links are up; later than usual" in remarks(state)


def test_a_troubled_pair_says_code_and_tries_once() -> None:
    report = a_rich_report()
    failed = next(link for link in report.links if link.state is LinkState.FAILED)
    repeated = replace(failed, why=failed.code)
    wait = Wait(failed.decoder, failed.prompt, "3 tries failed", failed.retry_at_s)
    said = links_view(replace(report, links=(repeated,), waits=(wait,)), now_s=NOW_S, pairs_max=100)

    assert troubled(said) == [
        "decoder-2 - prompt-3: failed for 15s, LLM_LINK_FAILED, 3 failed tries, next try in 6.0s"
    ]


@pytest.mark.parametrize("command", ["status", "explain", "history", "resume"])
async def test_where_no_daemon_answers_the_code_is_1(here: Here, command: str) -> None:
    error = (
        f"error: no daemon answers at {NOBODY} (Connection refused); start it with "
        "'pd-autoscaler run', or give its address by --url or PD_AUTOSCALER_URL\n"
    )
    assert await beside(here, command) == Ran(1, "", error)


async def test_a_daemon_before_its_first_cycle_is_code_1(here: Here) -> None:
    async with served(AdminParts()) as url:
        ran = await beside(here, "status", PD_AUTOSCALER_URL=url)

    error = "error: the daemon has not ended its first cycle yet; ask again in a second\n"
    assert ran == Ran(1, "", error)


async def test_a_history_without_entries_says_so(here: Here) -> None:
    async with served(AdminParts()) as url:
        assert await beside(here, "history", PD_AUTOSCALER_URL=url) == Ran(
            0, "nothing has changed yet\n", ""
        )


async def test_what_a_node_is_called_can_neither_mark_up_nor_steer_a_terminal(here: Here) -> None:
    report = a_rich_report()
    first, *others = report.snapshot.nodes
    named = replace(first, id="[red]p\x1b[31m[/red]")
    snapshot = replace(report.snapshot, nodes=(named, *others))
    async with served(
        AdminParts(control=StandInControl(replace(report, snapshot=snapshot)))
    ) as url:
        ran = await beside(here, "status", PD_AUTOSCALER_URL=url, COLUMNS="140")

    assert "[red]p\N{REPLACEMENT CHARACTER}[31m[/red]" in ran.out
    assert "\x1b" not in ran.out


def test_right_settings_are_shown_whole_and_without_secrets(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "pd.yaml"
    places = 'provider: {url: "http://127.0.0.1:1"}\nrouter: {kind: none}\n'
    file.write_text("loop: {period_s: 20}\nadmin: {token: correct-horse}\n" + places)

    shown = here("check-config", str(file))
    as_json = here("check-config", str(file), "--json", PD_AUTOSCALER_GUARD__PROMPT_MAX="7")

    assert (shown.code, shown.error) == (0, "")
    assert shown.out.startswith(f"# {file} is right; this would be used:\nloop:\n")
    assert "\n  period_s: 20.0\n" in shown.out
    used = json.loads(as_json.out)
    assert used["file"] == str(file)
    assert used["settings"]["loop"]["period_s"] == 20.0
    assert used["settings"]["guard"]["prompt_max"] == 7
    assert used["settings"]["admin"]["token"] == "**********"
    assert "correct-horse" not in shown.out + as_json.out


def test_a_file_that_run_would_refuse_is_not_called_right(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "pd.yaml"
    file.write_text("")

    ran = here("check-config", str(file))

    assert (ran.code, ran.out) == (2, "")
    assert ran.error.startswith("error: provider.url is missing")


def test_each_problem_of_a_settings_file_is_a_line_of_its_own(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "pd.yaml"
    file.write_text("loop: {perod_s: 5}\nguard: {prompt_min: 0}\n")

    ran = here("check-config", str(file))

    lines = ran.error.splitlines()
    assert (ran.code, ran.out) == (2, "")
    assert [line.partition(": ")[0] for line in lines] == ["error", "error"]
    assert "perod_s" in lines[0]
    assert "guard.prompt_min" in lines[1]


@pytest.mark.parametrize(
    ("loop", "error"),
    [
        ("{policy: quee-pressure}", "quee-pressure"),
        ("{policy_params: {no_such: 1}}", "no_such"),
    ],
)
def test_a_policy_that_would_not_start_is_found_by_check_config(
    here: Here, tmp_path: Path, loop: str, error: str
) -> None:
    file = tmp_path / "pd.yaml"
    file.write_text(f"loop: {loop}\n")

    ran = here("check-config", str(file))

    assert (ran.code, ran.out, len(ran.error.splitlines())) == (2, "", 1)
    assert error in ran.error


def test_the_installed_policies_are_listed(here: Here) -> None:
    shown = here("policies")
    listed = json.loads(here("policies", "--json").out)["policies"]

    names = {policy["name"] for policy in listed}
    assert {"fixed-ratio", "hpa", "kpa", "queue-pressure", "schedule"} <= names
    assert all(policy["name"] in shown.out for policy in listed)


PLUGIN = """
import random
import time

from pd_autoscaler.model.decision import Decision, Target
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec


class StandingParams(Params):
    prompt: int = 0
    looks_at_clock: bool = False
    is_ordered: bool = True


class Standing:
    def __init__(self, params: StandingParams) -> None:
        self._params = params

    def decide(self, snapshot: Snapshot) -> Decision:
        if self._params.looks_at_clock:
            time.monotonic()
            random.randint(1, 6)
            open(__file__).close()
        print("deciding")
        names = sorted if self._params.is_ordered else list
        first = names({"a", "b", "c", "d", "e", "f", "g", "h"})[0]
        prompt = self._params.prompt or snapshot.target.prompt
        return Target(prompt + ord(first) - ord("a"), snapshot.target.decoder)


SPEC = PolicySpec(params=StandingParams, build=Standing)
"""


@pytest.fixture(name="plugin")
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a policy's module into the current directory and return its name."""
    (tmp_path / "my_policies.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_policies", raising=False)
    return "my_policies:SPEC"


def test_a_shipped_policy_is_checked_promise_by_promise(here: Here) -> None:
    shown = here("policies", "check", "queue-pressure", "--param", "settle_s=20")

    *promises, last = shown.out.splitlines()
    assert (shown.code, shown.error) == (0, "")
    assert len(promises) == 8
    assert all(promise.startswith("\N{CHECK MARK} ") for promise in promises)
    assert re.fullmatch(
        r"queue-pressure keeps the contract; the slowest of \d+ calls took \d+\.\d ms", last
    )


def test_a_policy_in_the_current_directory_is_checked(here: Here, plugin: str) -> None:
    ran = here("policies", "check", plugin, "--json")

    said = json.loads(ran.out)
    assert ran.code == 1
    assert {c["check"]: c["violations"] for c in said["checks"] if c["violations"]} == {
        "snapshots only": [
            "called print while it decided; what it needs must come with the snapshot"
        ]
    }
    assert (said["policy"], said["params"], said["is_kept"]) == (plugin, {}, False)
    assert said["calls"] > 1000
    assert said["slowest_call_s"] > 0


def test_a_clock_a_draw_and_a_file_are_seen_whatever_they_were_imported_as(
    here: Here, plugin: str
) -> None:
    ran = here("policies", "check", plugin, "--param", "looks_at_clock=true")

    assert ran.code == 1
    for reached in ("time.monotonic", "random.getrandbits", "open (I/O)", "print"):
        assert f"    called {reached} while it decided; " in ran.out
    assert ran.out.splitlines()[-1].startswith("my_policies:SPEC breaks the contract; ")


def test_an_answer_that_hangs_on_the_order_of_a_set_is_seen_between_processes(
    here: Here, plugin: str
) -> None:
    ran = here("policies", "check", plugin, "--json", "--param", "is_ordered=false")

    found = {c["check"]: c["violations"] for c in json.loads(ran.out)["checks"]}
    [difference] = found["same anywhere"]
    assert difference.startswith("empty: ")
    assert difference.endswith(" with PYTHONHASHSEED=2")
    assert found["repeats itself"] == []


def test_parameters_come_from_a_file_and_one_by_one_over_it(
    here: Here, plugin: str, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text("prompt: 3\nis_ordered: yes\n")
    ran = here(
        "policies", "check", plugin, "--params", "params.yaml", "--param", "prompt=4", "--json"
    )

    assert json.loads(ran.out)["params"] == {"prompt": 4, "is_ordered": True}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ("quee-pressure",),
            "no policy 'quee-pressure', did you mean 'queue-pressure'?; installed",
        ),
        (("no_such:SPEC",), "policy 'no_such:SPEC' cannot be loaded: ModuleNotFoundError"),
        (("fixed-ratio", "--param", "rato=1"), "policy 'fixed-ratio': no parameter 'rato'"),
        (("fixed-ratio", "--param", "ratio=-1"), "policy 'fixed-ratio': ratio = -1: "),
        (("fixed-ratio", "--param", "ratio"), "--param 'ratio' is no key=value, such as ratio=0.5"),
        (("fixed-ratio", "--param", "ratio=["), "--param 'ratio=[': '[' is no YAML value"),
        (("fixed-ratio", "--params", "/no/such"), "/no/such cannot be read: No such file"),
    ],
)
def test_a_policy_that_cannot_be_checked_is_one_sentence_and_code_2(
    here: Here, arguments: tuple[str, ...], error: str
) -> None:
    ran = here("policies", "check", *arguments)

    assert (ran.code, ran.out, len(ran.error.splitlines())) == (2, "", 1)
    assert ran.error.startswith(f"error: {error}")


@pytest.mark.parametrize("content", ["- 1\n", "a: [\n"])
def test_a_file_that_holds_no_parameters_is_refused(
    here: Here, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(content)

    ran = here("policies", "check", "fixed-ratio", "--params", str(file))

    assert (ran.code, ran.out, len(ran.error.splitlines())) == (2, "", 1)
    assert ran.error.startswith(f"error: {file} ")


def test_the_help_is_as_it_was_last_agreed(here: Here) -> None:
    mine = "status explain history pause resume scale drain check-config policies"
    commands = [*mine.split(" "), "policies check", "policies schema", "replay"]
    said = []
    for command in commands:
        ran = here(*command.split(), "--help")
        assert (ran.code, ran.error) == (0, "")
        said.append(f"$ pd-autoscaler {command} --help\n{ran.out.rstrip()}\n")

    assert "\n".join(said) == (HERE / "cli_help.txt").read_text()


def test_the_help_of_all_lists_the_commands_and_the_exit_codes(here: Here) -> None:
    ran = here("--help")

    assert (ran.code, ran.error) == (0, "")
    assert ran.out.startswith("Usage: pd-autoscaler [OPTIONS] COMMAND [ARGS]...\n")
    listed = [line.split()[0] for line in ran.out.partition("Commands:")[2].splitlines() if line]
    for command in ("run", "cluster", "status", "explain", "history", "check-config", "policies"):
        assert command in listed
    codes = (
        "Exit codes: 0 done; 1 failed, or no daemon answered; 2 wrong input (an option, a value, "
        "a settings file): one sentence on stderr says which."
    )
    assert codes in " ".join(ran.out.split())


def test_no_arguments_show_the_help(here: Here) -> None:
    assert here() == here("--help")


async def test_the_version_is_that_of_the_package() -> None:
    assert await run("--version") == Ran(0, f"pd-autoscaler {__version__}\n", "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0.04, "0.0s"),
        (9.96, "10.0s"),
        (12.4, "12s"),
        (59.6, "1m00s"),
        (200, "3m20s"),
        (7500, "2h05m"),
        (356_400, "4d03h"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_text_that_could_steer_a_terminal_is_made_harmless() -> None:
    replaced = "\N{REPLACEMENT CHARACTER}"
    assert plain("a\x1b[2Jb\r\n\u202ec \u00fc") == f"a{replaced}[2Jb{replaced * 3}c \u00fc"


def test_the_schemas_of_what_is_said_with_an_advisor_are_printed(here: Here) -> None:
    for part, title in (("request", "Request"), ("answer", "Answer")):
        ran = here("policies", "schema", part)
        assert (ran.code, ran.error) == (0, "")
        assert json.loads(ran.out)["title"] == title
    assert here("policies", "schema", "reply").code == 2
