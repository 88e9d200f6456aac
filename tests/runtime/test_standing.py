"""What stands between cycles: nothing counts before the journal has it."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from pd_autoscaler.errors import ConfigError, TransientError
from pd_autoscaler.model.decision import Hold, HoldReason, Mode, Target
from pd_autoscaler.model.node import NodeState
from pd_autoscaler.model.plan import Plan
from pd_autoscaler.model.report import Report
from pd_autoscaler.model.snapshot import Limits, Snapshot
from pd_autoscaler.ports import Remembered
from pd_autoscaler.runtime.standing import Standing
from tests.support.fleets import node
from tests.support.ports_fakes import FakeJournal, virtually

LIMITS = Limits(prompt_min=1, prompt_max=6, decoder_min=2, decoder_max=6, nodes_max=8)


class Desk:
    """A standing target over a journal that can fail, and how often the loop was poked."""

    def __init__(self, *, is_advisory: bool = False) -> None:
        self.journal = FakeJournal()
        self.pokes = 0
        self.standing = Standing(self.journal, LIMITS, is_advisory=is_advisory, poke=self._poke)

    def _poke(self) -> None:
        self.pokes += 1

    def shows(self, *states: NodeState) -> None:
        """Let the latest report show prompt nodes in these states."""
        nodes = tuple(node(f"p{i}", state) for i, state in enumerate(states, 1))
        hold = Hold(HoldReason.POLICY_HELD)
        target = Target(1, 2)
        self.standing.latest = Report(
            cycle=1,
            snapshot=Snapshot(now_s=0, now_unix_s=0, target=target, nodes=nodes),
            decision=hold,
            guarded=hold,
            gates=(),
            target=target,
            mode=Mode.ACTIVE,
            plan=Plan(),
        )


@virtually
async def test_pause_stop_and_resume_are_written_and_run_a_cycle_early() -> None:
    desk = Desk()
    assert await desk.standing.pause(everything=False) is Mode.PAUSED
    assert await desk.standing.pause(everything=True) is Mode.STOPPED
    assert await desk.standing.resume() is Mode.ACTIVE
    assert desk.journal.lines == ["mode paused", "mode stopped", "mode active"]
    assert desk.pokes == 3


@virtually
async def test_what_the_journal_cannot_write_does_not_count() -> None:
    desk = Desk()
    desk.journal.faults["*"] = TransientError("disk full")
    asked: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: desk.standing.pause(everything=True),
        lambda: desk.standing.scale(2, 2),
        lambda: desk.standing.move(Target(3, 3)),
    )
    for ask in asked:
        with pytest.raises(TransientError):
            await ask()
    assert (desk.standing.mode, desk.standing.target, desk.pokes) == (Mode.ACTIVE, None, 0)


@virtually
async def test_scaling_sets_the_target_and_pauses_the_policy() -> None:
    desk = Desk()
    assert await desk.standing.scale(3, 4) == Target(3, 4)
    assert desk.standing.mode is Mode.PAUSED
    assert desk.journal.lines == ["mode paused", "target 3:4"]


@pytest.mark.parametrize(
    ("prompt", "decoder", "words"),
    [
        (0, 3, "guard.prompt_min"),
        (7, 2, "prompt_max"),
        (2, 1, "guard.decoder_min"),
        (6, 6, "guard.nodes_max"),
    ],
)
def test_scaling_outside_the_limits_is_refused_and_names_the_limit(
    prompt: int, decoder: int, words: str
) -> None:
    @virtually
    async def test() -> None:
        desk = Desk()
        with pytest.raises(ConfigError, match=words):
            await desk.standing.scale(prompt, decoder)
        assert desk.journal.lines == []

    test()


@virtually
async def test_an_advisory_controller_refuses_everything_that_would_act() -> None:
    desk = Desk(is_advisory=True)
    desk.shows(NodeState.SERVING)
    asked: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: desk.standing.pause(everything=False),
        desk.standing.resume,
        lambda: desk.standing.scale(2, 2),
        lambda: desk.standing.drain("p1"),
    )
    for ask in asked:
        with pytest.raises(ConfigError, match="advisory"):
            await ask()
    assert desk.standing.mode is Mode.ADVISORY
    assert desk.standing.drains == frozenset()


@pytest.mark.parametrize("mode", list(Mode))
def test_a_remembered_mode_is_taken_up_but_advisory_comes_from_the_settings(mode: Mode) -> None:
    desk, advisory = Desk(), Desk(is_advisory=True)
    desk.standing.take_up(Remembered(mode=mode.value))
    advisory.standing.take_up(Remembered(mode=mode.value))
    assert desk.standing.mode is (Mode.ACTIVE if mode is Mode.ADVISORY else mode)
    assert advisory.standing.mode is Mode.ADVISORY
    assert desk.standing.target is None


def test_a_remembered_target_is_taken_up_within_the_present_limits() -> None:
    desk = Desk()
    desk.standing.take_up(Remembered(target=(2, 3)))
    assert desk.standing.target == Target(2, 3)
    desk.standing.take_up(Remembered(target=(1, 1)))
    assert desk.standing.target == Target(1, 2)
    desk.standing.take_up(Remembered(target=(40, 40)))
    assert desk.standing.target is not None
    assert desk.standing.target.total == LIMITS.nodes_max


@virtually
async def test_only_a_serving_node_can_be_asked_to_drain() -> None:
    desk = Desk()
    with pytest.raises(ConfigError, match="the nodes are: none"):
        await desk.standing.drain("p1")
    desk.shows(NodeState.SERVING, NodeState.LINKING)
    with pytest.raises(ConfigError, match="p1, p2"):
        await desk.standing.drain("p9")
    with pytest.raises(ConfigError, match="linking"):
        await desk.standing.drain("p2")
    await desk.standing.drain("p1")
    assert desk.standing.drains == {"p1"}
    assert desk.pokes == 1


@virtually
async def test_a_move_keeps_its_reason() -> None:
    desk = Desk()
    await desk.standing.move(replace(Target(2, 2), why="load"))
    assert desk.standing.target is not None
    assert desk.standing.target.why == "load"
