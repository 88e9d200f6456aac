"""The jumps from event to event against every token as a step of its own."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.fleet.requests.fleet import RequestFleet
from pd_autoscaler.workload.arrivals import arrivals_of
from pd_autoscaler.workload.request import Request
from tests.support.naive_requests import NaiveFleet
from tests.support.request_fleets import EXACT

Verb = Literal["look", "publish", "withdraw", "remove", "add prompt", "add decoder", "cut", "link"]

TICK_S = 1 / 16

ROUGH = replace(
    EXACT,
    prefill_points=((1, 0.21), (70, 0.53), (133, 1.37)),
    prefill_attention_s=3.3e-5,
    decode_base_s=0.071,
    decode_per_request_s=0.0083,
    decode_per_token_s=0.00091,
    pull_bytes_per_s=217.0,
)
"""Times that no binary fraction holds: what rounding does shows here."""


@dataclass(frozen=True)
class Deed:
    after_s: float
    verb: Verb
    one: int
    other: int


def deeds() -> st.SearchStrategy[list[Deed]]:
    verbs: tuple[Verb, ...] = Verb.__args__  # type: ignore[attr-defined]
    deed = st.builds(
        Deed,
        st.integers(0, 100).map(lambda ticks: ticks * TICK_S),
        st.sampled_from(verbs),
        st.integers(0, 9),
        st.integers(0, 9),
    )
    return st.lists(deed, max_size=12)


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    at_s, made = 0.0, []
    for _ in range(draw(st.integers(1, 25))):
        at_s += draw(st.integers(0, 12)) * TICK_S
        given_tokens = draw(st.integers(1, 90) | st.just(200))
        cached = draw(st.integers(0, given_tokens - 1))
        made.append(Request(at_s, given_tokens, draw(st.integers(1, 60)), cached))
    return made


class Both:
    """A fleet and its model, to which the same is done."""

    def __init__(
        self, profile: EngineProfile, *, patience_s: float, is_chunked: bool, is_compiled: bool
    ) -> None:
        self.fleet = RequestFleet(
            profile,
            nodes_max_hint=2,
            patience_s=patience_s,
            is_chunked=is_chunked,
            is_compiled=is_compiled,
        )
        self.naive = NaiveFleet(profile, patience_s=patience_s, is_chunked=is_chunked)

    def offer(self, offered: list[Request]) -> None:
        self.fleet.offer(arrivals_of(offered))
        self.naive.offer(offered)

    def advance(self, until_s: float) -> None:
        self.fleet.advance(until_s)
        self.naive.advance(until_s)

    def add(self, role: Role) -> int:
        slot = self.fleet.add(role)
        assert self.naive.add(role) == slot
        return slot

    def publish(self, slot: int) -> None:
        self.fleet.publish(slot)
        self.naive.publish(slot)

    def does(self, deed: Deed) -> None:
        self.advance(self.fleet.now_s + deed.after_s)
        slots = sorted(self.naive.nodes)
        match deed.verb:
            case "add prompt" | "add decoder":
                self.publish(self.add(Role(deed.verb.split()[1])))
            case "cut" | "link":
                self._links(deed)
            case "look":
                pass
            case _ if not slots:
                pass
            case "publish":
                self.publish(slots[deed.one % len(slots)])
            case "withdraw":
                self.fleet.withdraw(slots[deed.one % len(slots)])
                self.naive.withdraw(slots[deed.one % len(slots)])
            case "remove":
                self.fleet.remove(slots[deed.one % len(slots)])
                self.naive.remove(slots[deed.one % len(slots)])

    def _links(self, deed: Deed) -> None:
        found = {
            role: [slot for slot, node in self.naive.nodes.items() if node.role is role]
            for role in Role
        }
        if all(found.values()):
            decoder = found[Role.DECODER][deed.one % len(found[Role.DECODER])]
            prompt = found[Role.PROMPT][deed.other % len(found[Role.PROMPT])]
            self.fleet.set_linked(decoder, prompt, deed.verb == "link")
            self.naive.set_linked(decoder, prompt, deed.verb == "link")

    def agree(self, *, rel: float) -> None:
        jobs = self.naive.jobs
        for found, wanted in (
            (self.fleet.first_token_s, [job.first_token_s for job in jobs]),
            (self.fleet.done_s, [job.done_s for job in jobs]),
        ):
            np.testing.assert_allclose(found, wanted, rtol=rel, atol=0.0, equal_nan=True)
        assert self.fleet.at_router == len(self.naive.at_router)
        for slot, node in self.naive.nodes.items():
            load = self.fleet.load(slot)
            counts = (load.waiting, load.waiting_deferred, load.running, load.kv_unpulled)
            assert counts == node.counts(), slot
            assert load.kv_used == min(node.kv_tokens / node.profile.kv_tokens, 1.0)
            if node.role is Role.DECODER:
                counters = self.fleet.reading(slot, "n", self.fleet.now_s).counters
                assert counters["generation_tokens"] == node.generation_tokens
                assert counters["preemptions"] == node.preemptions
                assert counters["transfer_failures"] == node.transfer_failures


def played(both: Both, offered: list[Request], todo: list[Deed], *, rel: float) -> None:
    for role in (Role.PROMPT, Role.PROMPT, Role.DECODER, Role.DECODER):
        both.publish(both.add(role))
    both.offer(offered)
    for deed in todo:
        both.does(deed)
        both.agree(rel=rel)
    both.advance(1e6)
    both.agree(rel=rel)


patience = st.sampled_from((math.inf, 1.0))


@settings(deadline=None, max_examples=150)
@given(requests(), deeds(), patience, st.booleans())
def test_jumps_end_where_steps_end(
    offered: list[Request], todo: list[Deed], patience_s: float, is_chunked: bool
) -> None:
    both = Both(EXACT, patience_s=patience_s, is_chunked=is_chunked, is_compiled=True)
    played(both, offered, todo, rel=0.0)


@settings(deadline=None, max_examples=8)
@given(requests(), deeds(), patience, st.booleans())
def test_plain_python_ends_where_steps_end(
    offered: list[Request], todo: list[Deed], patience_s: float, is_chunked: bool
) -> None:
    both = Both(EXACT, patience_s=patience_s, is_chunked=is_chunked, is_compiled=False)
    played(both, offered, todo, rel=0.0)


@pytest.mark.parametrize("seed", range(20))
def test_jumps_end_where_steps_end_up_to_rounding(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    at_s = np.cumsum(drawn.exponential(0.3, 200))
    offered = [
        Request(float(when_s), int(tokens), int(output), int(tokens) // 3)
        for when_s, tokens, output in zip(
            at_s, drawn.integers(1, 90, 200), drawn.integers(1, 60, 200), strict=True
        )
    ]
    both = Both(ROUGH, patience_s=math.inf, is_chunked=seed % 2 == 1, is_compiled=True)
    todo = [Deed(float(drawn.exponential(6.0)), "look", 0, 0) for _ in range(10)]
    played(both, offered, todo, rel=1e-9)
    assert both.fleet.totals.preemptions > 0
