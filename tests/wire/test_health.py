"""/healthz of a controller: whether its loop turns, from the start on."""

import re
import socket
from pathlib import Path

import aiohttp
import pytest

from pd_autoscaler import app
from pd_autoscaler.settings import Settings
from tests.support.clock import Clock


async def test_a_controller_whose_first_cycle_never_ends_is_not_healthy_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        settings = Settings.model_validate(
            {
                "loop": {"period_s": 8},
                "provider": {"url": url},
                "router": {"url": url},
                "links": {"probe_period_s": 60},
                "journal": {"path": str(tmp_path / "journal.sqlite")},
                "admin": {"port": 0},
            }
        )
        # The loop is not run at all: no cycle ever ends.
        async with app.controller(settings) as running, aiohttp.ClientSession() as client:

            async def health() -> tuple[int, str]:
                async with client.get(f"{running.url}/healthz") as answer:
                    return answer.status, await answer.text()

            assert (await health())[0] == 200
            clock.advance(81)
            status, said = await health()
    assert status == 503
    assert re.search(r"no cycle has ended since the start \d+ s ago", said)
