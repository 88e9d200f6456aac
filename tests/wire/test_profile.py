"""`pd-autoscaler profile`: what it prints, writes and refuses."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import NamedTuple

import pytest

from pd_autoscaler.cli import invoke
from pd_autoscaler.engine_model.known import KNOWN, engine_profile
from pd_autoscaler.engine_model.profile import DEMO, EngineProfile, profile_of
from tests.support.at_work import H100, LEARNT, LOADS, snapshot
from tests.support.journals import in_a_file
from tests.support.reports import START_UNIX_S, a_report

BENCH = """model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time
m,h,512,1,100,50,20
m,h,1024,1,100,90,21
m,h,512,4,100,170,24
m,h,2048,1,100,180,22
other,h,512,1,100,1,1
"""


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    error: str


Here = Callable[..., Ran]


@pytest.fixture(name="here")
def _here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Run the command in this process."""
    monkeypatch.setenv("COLUMNS", "120")

    def run_here(*arguments: str) -> Ran:
        code = invoke(["profile", *arguments])
        return Ran(code, *capsys.readouterr())

    return run_here


@pytest.fixture(name="bench")
def _bench(tmp_path: Path) -> Path:
    path = tmp_path / "bench.csv"
    path.write_text(BENCH)
    return path


def test_known_profiles_are_listed_with_the_source_of_each_number(here: Here) -> None:
    ran = here("--list")
    listed = json.loads(here("--list", "--json").out)["profiles"]

    assert (ran.code, ran.error) == (0, "")
    assert "DeepSeek-R1 in 8 bits, one server of eight Ascend 910C" in ran.out
    assert "arXiv 2506.12708" in ran.out
    assert [row["profile"]["name"] for row in listed] == list(KNOWN)
    for row in listed:
        assert profile_of(row["profile"]) == KNOWN[row["profile"]["name"]].profile
        assert set(row["sources"]) == {f.name for f in fields(EngineProfile)} - {"name"}


def test_a_benchmark_becomes_a_file_that_is_read_back(
    here: Here, bench: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.yaml"
    arguments = ("--csv", str(bench), "--model", "m", "--base", "llama-2-70b-h100")

    ran = here(*arguments, "--out", str(out))
    wire = json.loads(here(*arguments, "--json").out)

    assert (ran.code, ran.error) == (0, "")
    made = engine_profile(out)
    assert asdict(made) == asdict(profile_of(wire["profile"]))
    assert made.name == "m"
    assert made.kv_tokens == KNOWN["llama-2-70b-h100"].profile.kv_tokens
    assert made.prefill_s(1024, 1024**2) == pytest.approx(0.09, rel=0.02)
    for told in ("50.0 ms", "+", "prefill  4 measured", "decode   4 measured", f"m is in {out}"):
        assert told in ran.out
    assert "kv_tokens" in ran.out.partition("not fitted:")[2]
    assert {row["part"] for row in wire["compared"]} == {"prefill", "decode"}
    assert wire["taken"]["batch_max"] == "not measured: llama-2-70b-h100's"


async def test_a_journal_becomes_a_profile_of_its_engines(here: Here, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    async with in_a_file(path).open() as journal:
        for cycle, (running, used) in enumerate(LOADS, 1):
            seen = snapshot(1000.0 + cycle, running=running, used=used, capacity=LEARNT)
            seen = replace(seen, now_unix_s=START_UNIX_S + cycle)
            await journal.append(replace(a_report(cycle=cycle), snapshot=seen))

    ran = await asyncio.to_thread(here, "--journal", str(path), "--name", "ours", "--json")
    wire = json.loads(ran.out)

    made = profile_of(wire["profile"])
    assert made.name == "ours"
    assert made.decode_step_s(64, 65_000) == pytest.approx(H100.decode_step_s(64, 65_000), rel=0.02)
    assert made.kv_tokens == 1_300_000
    assert {q["part"]: q["rows"] for q in wire["qualities"]} == {"prefill": 5, "decode": 5}


def test_a_base_may_be_a_file(here: Here, bench: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("base: demo\nbatch_max: 7\n")

    ran = here("--csv", str(bench), "--model", "m", "--base", str(base), "--json")

    assert json.loads(ran.out)["profile"]["batch_max"] == 7
    assert DEMO.batch_max != 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give one of --csv FILE, --journal FILE and --list"),
        (("--list", "--csv", "{bench}"), "give one of"),
        (("--list", "--model", "m"), "are for --csv"),
        (("--csv", "{bench}"), "choose one"),
        (("--csv", "{bench}", "--model", "z"), "has no row of z"),
        (("--csv", "{bench}", "--model", "m", "--base", "z"), "is not known: give one of demo"),
        (("--csv", "{bench}", "--model", "m", "--out", "{folder}/no/x"), "cannot be written"),
        (("--csv", "{folder}"), "cannot be read"),
        (("--journal", "{folder}/none"), "there is no journal"),
        (("--journal", "{bench}"), "is no journal"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    here: Here, bench: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    given = [argument.format(bench=bench, folder=tmp_path) for argument in arguments]

    ran = here(*given)

    assert (ran.code, ran.out, len(ran.error.splitlines())) == (2, "", 1)
    assert says in ran.error
