"""/healthz and /readyz of a controller: whether its loop turns, and whether it may decide."""

import re
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import anyio
import pytest

from pd_autoscaler import app
from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.model.signals import RoleSignals
from pd_autoscaler.settings import Settings
from tests.support.clock import Clock
from tests.support.reports import a_report, a_snapshot


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


async def test_a_controller_that_sees_too_few_nodes_is_not_ready() -> None:
    now_s = anyio.current_time()
    seen = replace(
        a_snapshot(), now_s=now_s, prompt=RoleSignals(serving=4, fresh=2), is_synced=True
    )

    def ready(fresh: int) -> tuple[bool, str]:
        snapshot = replace(seen, decoder=RoleSignals(serving=4, fresh=fresh))
        latest = replace(a_report(), snapshot=snapshot)
        loop: Any = SimpleNamespace(control=SimpleNamespace(latest=latest), is_policy_hung=False)
        return app._Health(loop, 10.0, GuardRules(), began_s=0.0).ready()

    assert ready(2)[0] is True
    assert ready(1) == (False, "the target is held: 1 of 4 decoder nodes have fresh metrics")
