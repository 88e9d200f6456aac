"""Wrong input, as a person gives it: one sentence with the value and the fix, and nothing left."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pd_autoscaler.adapters.journal_lock import locked
from pd_autoscaler.cli import invoke

WITHIN_S = 60
"""A command that does not refuse would run for ever."""

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00,100,10\n"
FORMATS = (
    "give an Azure CSV (header TIMESTAMP,ContextTokens,GeneratedTokens), Mooncake JSON lines "
    "(timestamp, input_length, output_length), a CSV of requests (at_s,input_tokens,output_tokens) "
    "or of rates (t_s,req_per_s,input_tokens,output_tokens)"
)
WHOLE = """\
provider: {kind: process, url: "http://127.0.0.1:1"}
router: {kind: builtin, url: "http://127.0.0.1:1"}
journal: {path: journal.db}
admin: {port: 0}
"""
FILES = {
    "ok.csv": AZURE,
    "empty": "",
    "wrong.csv": "a,b,c\n1,2,3\n",
    "large.csv": AZURE + "2024-01-01 00:00:01,60000,10\n",
    "row.csv": AZURE + "yesterday,100,10\n",
    "broken.jsonl": '{"timestamp": 0, "input_length": 5\n',
    "whole.yaml": WHOLE,
    "key.yaml": WHOLE + "loop: {perod_s: 5}\n",
    "bounds.yaml": WHOLE + "guard: {prompt_min: 5, prompt_max: 2}\n",
    "tls.yaml": WHOLE + "links: {has_tls: true, timeout_ms: 200}\n",
    "policy.yaml": WHOLE + "loop: {policy: quee-pressure}\n",
    "parameter.yaml": WHOLE + "loop: {policy_params: {headrom: 1}}\n",
    "value.yaml": WHOLE + "loop: {policy_params: {headroom: much}}\n",
    "text.yaml": "loop: [\n",
    "port.yaml": WHOLE.replace("port: 0", "port: PORT"),
    "folder.yaml": WHOLE.replace("journal.db", "ok.csv/journal.db"),
    "notdb.yaml": WHOLE.replace("journal.db", "ok.csv"),
    "dir.yaml": WHOLE.replace("journal.db", "a_folder"),
    "locked.yaml": WHOLE.replace("journal.db", "held.db"),
    "provider.yaml": "journal: {path: journal.db}\nadmin: {port: 0}\n",
    "router.yaml": WHOLE.replace("router:", "#"),
    "address.yaml": WHOLE.replace("http://127.0.0.1:1", "127.0.0.1:1", 1),
}
WRONG = [
    # What the settings say.
    ("run --config key.yaml", "key.yaml:5: loop.perod_s", "did you mean loop.period_s?"),
    ("run --config bounds.yaml", "guard.prompt_min (5)", "guard.prompt_max (2)"),
    ("run --config tls.yaml", "links.timeout_ms (200)", "set links.timeout_ms to 2000 or more"),
    ("run --config policy.yaml", "no policy 'quee-pressure'", "installed: fixed-ratio"),
    ("run --config whole.yaml --policy nope", "no policy 'nope'", "installed: fixed-ratio"),
    ("run --config parameter.yaml", "no parameter 'headrom'", "did you mean 'headroom'?"),
    ("run --config value.yaml", "headroom", "number"),
    ("run --config text.yaml", "text.yaml:2:1", "not YAML"),
    ("run --config missing.yaml", "missing.yaml", "cannot be read: No such file"),
    ("run --config a_folder", "a_folder", "cannot be read: Is a directory"),
    ("run --config port.yaml", "127.0.0.1:PORT", "set another admin.port"),
    ("run --config folder.yaml", "journal ok.csv/journal.db", "cannot be opened for writing"),
    ("run --config notdb.yaml", "journal ok.csv", "move it away"),
    ("run --config dir.yaml", "journal a_folder", "cannot be opened for writing"),
    ("run --config locked.yaml", "held.db is in use by another controller", "journal.path another"),
    ("run --config provider.yaml", "provider.url is missing", "`pd-autoscaler cluster` writes"),
    ("run --config router.yaml", "router.url is missing", "`pd-autoscaler cluster` writes"),
    ("run --config address.yaml", "provider.url is '127.0.0.1:1'", "such as http://host:port"),
    # Options of another way to run.
    ("run --config whole.yaml --trace ok.csv", "--trace", "leave one of them out"),
    ("run --config whole.yaml --for 5", "--for", "leave one of them out"),
    ("run --config whole.yaml --summary s.json", "--summary", "leave one of them out"),
    ("run --config whole.yaml --work-dir w", "--work-dir", "leave one of them out"),
    ("run --config whole.yaml --speed 2", "--speed", "leave one of them out"),
    ("run --config whole.yaml --seed 2", "--seed", "leave one of them out"),
    ("run --config whole.yaml --port 80", "--port", "leave one of them out"),
    # What the command line says.
    (
        "run --policy nope",
        "no policy 'nope'",
        "installed: fixed-ratio, hpa, http, kpa, proportional, queue-pressure, ",
    ),
    ("run --port PORT", "--port PORT", "give another port, or leave it out for a free one"),
    ("run --port 70000", "--port 70000", "from 1 to 65535"),
    ("run --port many", "--port", "valid integer"),
    ("run --speeed 2", "--speeed", "'--help' lists what there is"),
    ("run --work-dir ok.csv/x", "--work-dir ok.csv/x", "give a folder that is writable"),
]
BOTH = [
    ("--trace none.csv", "none.csv", "check the path and its permissions"),
    ("--trace a_folder", "a_folder", "check the path and its permissions"),
    ("--trace empty", "empty: holds no request", FORMATS),
    ("--trace wrong.csv", "wrong.csv:1: is not a known trace format", FORMATS),
    ("--trace row.csv", "row.csv:3: TIMESTAMP 'yesterday'", "write it as 2023-11-16 18:17:03.97"),
    ("--trace broken.jsonl", "broken.jsonl:1: is not JSON", "complete or delete it"),
    ("--trace large.csv", "60010 tokens", "add --tokens-max, such as --tokens-max 4000"),
    ("--trace ok.csv --speed 0", "speed is 0.0", "give 1 or more"),
    ("--trace ok.csv --speed -2", "speed is -2.0", "give 1 or more"),
    ("--trace ok.csv --speed nan", "speed is nan", "give 1 or more"),
    ("--trace ok.csv --speed inf", "speed is inf", "give 1 or more"),
    ("--speed 3", "--speed 3", "give a --trace, or leave --speed out"),
    ("--for 0", "--for 0", "give a number of seconds above 0"),
    ("--for -3", "--for -3", "give a number of seconds above 0"),
    ("--for nan", "--for nan", "give a number of seconds above 0"),
    ("--summary none/s.json", "--summary none/s.json", "give a file in a folder that exists"),
    ("--summary a_folder", "--summary a_folder", "give a file in a folder that exists"),
    ("--summary /proc/s.json", "--summary /proc/s.json", "give a file in a folder that exists"),
    ("--work-dir ok.csv", "--work-dir ok.csv", "give a folder that is writable"),
]
CLUSTER = [
    ("--nodes nonsense", "--nodes 'nonsense'", "write counts such as prompt=1,decoder=1"),
    ("--nodes prompt=-1", "--nodes 'prompt=-1'", "write counts such as prompt=1,decoder=1"),
    ("--nodes prompt=1,prompt=2", "'prompt=1,prompt=2'", "write counts such as"),
    ("--nodes prompt=900,decoder=1", "'prompt=900,decoder=1'", "give at most 64 in all"),
    ("--config-out none/c.yaml", "--config-out none/c.yaml", "give a file in a folder that exists"),
    ("--config-out a_folder", "--config-out a_folder", "give a file in a folder that exists"),
]
JOURNALS = {"journal.db", "journal.db.lock", "ok.csv.lock", "a_folder.lock"}
"""What may be new after a refusal: a journal is opened before the port, its lock before both."""

TABLE = [
    *WRONG,
    *((f"run {given}", value, fix) for given, value, fix in BOTH),
    *((f"cluster {given}", value, fix) for given, value, fix in (*BOTH, *CLUSTER)),
]


@pytest.fixture(name="place", scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """Make a folder of wrong files, a journal that is held, and a port that is taken."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "a_folder").mkdir()
    with closing(socket.socket()) as taken, locked(str(folder / "held.db")):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        for name, text in FILES.items():
            (folder / name).write_text(text.replace("PORT", str(port)))
        yield folder, port


ALONE = (
    "run --config key.yaml",
    "run --config locked.yaml",
    "run --config port.yaml",
    "run --port PORT",
    "run --trace wrong.csv",
    "cluster --nodes nonsense",
)
"""Asked in a process of their own, which takes a second each; the others in this one."""


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
async def test_wrong_input_is_one_sentence_with_the_value_and_the_fix(
    place: tuple[Path, int],
    row: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, port = place
    given, value, fix = row
    monkeypatch.chdir(folder)
    before, children = set(folder.iterdir()), children_of(os.getpid())

    # In a thread, as a command runs an event loop of its own.
    code = await asyncio.to_thread(invoke, given.replace("PORT", str(port)).split())

    out, error = capsys.readouterr()
    assert (code, out) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert value.replace("PORT", str(port)) in error
    assert fix in error
    assert children_of(os.getpid()) == children
    assert {path.name for path in set(folder.iterdir()) - before} <= JOURNALS


@pytest.mark.parametrize("given", ALONE)
def test_a_process_of_its_own_ends_with_2_and_leaves_nothing_behind(
    place: tuple[Path, int], given: str
) -> None:
    folder, port = place
    [(value, fix)] = [row[1:] for row in TABLE if row[0] == given]
    # A session of its own, so that whatever it leaves behind can be found.
    with subprocess.Popen(
        [sys.executable, "-m", "pd_autoscaler", *given.replace("PORT", str(port)).split()],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, error = process.communicate(timeout=WITHIN_S)
        finally:
            process.kill()

    assert (process.returncode, out) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert value.replace("PORT", str(port)) in error
    assert fix in error
    assert ended_of(process.pid) == []


def children_of(pid: int) -> set[str]:
    """Name the processes that a process has started and not yet reaped."""
    found: set[str] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # A thread may end meanwhile.
            found.update((task / "children").read_text().split())
    return found


def ended_of(session: int) -> list[int]:
    """End the processes that a session left behind, and name them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return found
