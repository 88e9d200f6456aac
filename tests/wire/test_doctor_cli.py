"""`pd-autoscaler doctor`: what it prints, with which code it ends, and what it refuses."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from pd_autoscaler.cli import findings, invoke
from pd_autoscaler.doctor import prepared
from pd_autoscaler.doctor.findings import Diagnosis, Group, not_checked, ok, problem, warning
from pd_autoscaler.model.node import Role
from tests.support.doctored import served
from tests.support.pages import vllm_page

PAGE = vllm_page(finished=60, prompt_tokens=9000, generation_tokens=60)


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    error: str


Here = Callable[..., Ran]


@pytest.fixture(name="here")
def _here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Run doctor in this process, with no pause between two pages."""
    terms_of = prepared.terms_of
    monkeypatch.setattr(
        prepared, "terms_of", lambda settings, **terms: terms_of(settings, pause_s=0.0, **terms)
    )
    monkeypatch.delenv("COLUMNS", raising=False)

    def run_here(*arguments: str) -> Ran:
        return Ran(invoke(["doctor", *arguments]), *capsys.readouterr())

    return run_here


async def beside(here: Here, *arguments: str) -> Ran:
    """Run it in a thread, beside the servers that it looks at."""
    return await asyncio.to_thread(here, *arguments)


async def test_a_problem_is_told_with_its_fix_and_ends_with_1(here: Here) -> None:
    async with served({"/metrics": PAGE}) as engine:
        url = f"{engine.url}/metrics"
        ran = await beside(here, "--metrics", url, "--role", "decoder")
    lines = ran.out.splitlines()
    assert (ran.code, ran.error) == (1, "")
    assert lines[0] == f"{url} (decoder)"
    assert lines[1].startswith("  \N{BALLOT X} role")
    assert "the counters show a prompt node" in lines[1]
    assert lines[2].strip().startswith("fix: correct the role")
    # What is needed of a decoder and lacks comes after what must be fixed.
    assert lines[3].startswith("  ! names")
    assert lines[-1].startswith("1 node: 1 problem, 1 warning, ")


async def test_warnings_alone_end_with_0(here: Here) -> None:
    async with served({"/metrics": PAGE}) as engine:
        ran = await beside(here, "--metrics", f"{engine.url}/metrics", "--role", "prompt")
    assert ran.code == 0
    assert "1 node: 0 problems, 1 warning, " in ran.out


async def test_json_has_every_finding(here: Here) -> None:
    async with served({"/metrics": PAGE}) as engine:
        ran = await beside(here, "--metrics", f"{engine.url}/metrics", "--json")
    told = json.loads(ran.out)
    (group,) = told["groups"]
    by_check = {finding["check"]: finding for finding in group["findings"]}
    assert by_check["profile"] == {
        "check": "profile",
        "verdict": "ok",
        "seen": "vllm, told by its names",
        "fix": "",
    }
    assert told["counts"]["ok"] == sum(f["verdict"] == "ok" for f in group["findings"])
    assert ran.code == 0


async def test_a_settings_file_is_looked_at_as_a_whole_or_by_names(
    here: Here, tmp_path: Path
) -> None:
    config = tmp_path / "pd.yaml"
    async with served({"/metrics": PAGE}) as engine:
        config.write_text(
            f"""\
provider: {{kind: static, nodes: [
  {{id: p1, role: prompt, agent_urls: ["{engine.url}"], metrics_url: "{engine.url}/metrics"}}]}}
router: {{kind: none}}
journal: {{path: {tmp_path}/journal.db}}
admin: {{port: 0}}
"""
        )
        whole = await beside(here, "--config", str(config), "--json")
        named = await beside(here, "--config", str(config), "p1", "--json")
        unknown = await beside(here, "--config", str(config), "p2")
    names = [[group["name"] for group in json.loads(r.out)["groups"]] for r in (whole, named)]
    assert names == [["site", "fleet", "p1"], ["p1"]]
    # Nothing but a 404 is where the agent should be.
    assert (whole.code, named.code) == (1, 1)
    assert (unknown.code, unknown.out) == (2, "")
    assert "no node 'p2' (the provider lists: p1)" in unknown.error
    left = list(tmp_path.iterdir())  # noqa: ASYNC240  # A folder of one file.
    assert left == [config]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to check: give --config FILE, or --metrics URL"),
        (("--config", "none.yaml"), "none.yaml cannot be read"),
        (("--metrics", "10.0.0.1:8000"), "it must be an address such as http://host:port"),
        (("--agent", "nobody"), "--agent 'nobody'"),
        (("--metrics", "http://h/m", "p1"), "give one or the other"),
        (("--role", "prompt"), "--role and --profile are for --metrics and --agent"),
        (("--metrics", "http://h/m", "--role", "prefill"), "give prompt or decoder"),
        (("--metrics", "http://h/m", "--profile", "vlm"), "did you mean 'vllm'?"),
        (("--metrics", "me:hush@h:1"), "--metrics 'h:1': it must be an address"),
        (("--metrics", "http://h/m", "--deadline", "0"), "--deadline"),
    ],
)
def test_wrong_input_is_one_sentence_and_ends_with_2(
    here: Here, arguments: tuple[str, ...], said: str
) -> None:
    ran = here(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.error.startswith("error: ")
    assert said in ran.error


def test_what_is_fine_is_short_and_many_fine_nodes_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fine = tuple(Group(f"n{i}", (ok("metrics", "25 kB"),), Role.PROMPT) for i in range(21))
    bad = Group(
        "bad\x1b[2J",
        (
            warning("clock", "3 s apart", "set it"),
            problem("metrics", "refused", "start it"),
            not_checked("agent", "no address"),
            ok("role", "a prompt node"),
        ),
    )
    findings.show(Diagnosis((Group("site", (ok("policy", "it loads"),)), *fine, bad)))
    assert capsys.readouterr().out.splitlines() == [
        "site",
        "  \N{CHECK MARK} policy: it loads",
        "bad\N{REPLACEMENT CHARACTER}[2J",
        "  \N{BALLOT X} metrics  refused",
        "             fix: start it",
        "  ! clock    3 s apart",
        "             fix: set it",
        "  \N{CHECK MARK} role",
        "  \N{EN DASH} agent    not checked: no address",
        "\N{CHECK MARK} 21 nodes have nothing to mind",
        "22 nodes: 1 problem, 1 warning, 23 ok, 1 not checked",
    ]
