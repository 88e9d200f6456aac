"""The journal's lock: two controllers never share a journal, and a dead one is not in the way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pd_autoscaler.adapters.journal_lock import locked
from pd_autoscaler.errors import ConfigError

HOLDER = """
import sys
from pd_autoscaler.adapters.journal_lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_controller_is_told_which_process_holds_the_journal(tmp_path: Path) -> None:
    path = str(tmp_path / "journal.db")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError) as refused, locked(path):
            pass
        assert str(refused.value) == (
            f"journal {path} is in use by another controller (process {holder.pid}): "
            "end that one, or give journal.path another value"
        )
        holder.kill()
        holder.wait()
        with locked(path):  # What a killed one held is free at once.
            assert Path(f"{path}.lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_is_free_after_its_block_and_memory_needs_none(tmp_path: Path) -> None:
    path = str(tmp_path / "journal.db")
    for _ in range(2):
        with locked(path):
            pass
    with locked(":memory:"), locked(":memory:"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["journal.db.lock"]


def test_a_lock_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="cannot be opened for writing"),
        locked(f"{tmp_path}/none/journal.db"),
    ):
        pytest.fail("it was locked")
