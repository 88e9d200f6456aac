"""A static fleet as a plain simulation in SimPy: a process a node, a time-out a step."""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.workload.arrivals import Arrivals

Steps = Generator[simpy.Event, Any, None]


@dataclass(eq=False, slots=True)
class Job:
    input_tokens: int
    output_tokens: int
    uncached: int
    generated: int = 0
    done_s: float = 0.0
    source: "Prompt | None" = None


@dataclass(eq=False, slots=True)
class Prompt:
    wake: simpy.Event
    queue: deque[Job] = field(default_factory=deque)
    load: int = 0
    kv_held: int = 0
    nic_free_s: float = 0.0


@dataclass(eq=False, slots=True)
class Decoder:
    wake: simpy.Event
    queue: deque[Job] = field(default_factory=deque)
    batch: list[Job] = field(default_factory=list)
    pulled: list[Job] = field(default_factory=list)
    pulling: int = 0
    load: int = 0
    kv_coming: int = 0
    nic_free_s: float = 0.0


class SimpyFleet:
    """Prompt nodes, decoders, links and a router, without preemption, faults and metrics."""

    def __init__(self, profile: EngineProfile, *, prompts: int, decoders: int) -> None:
        self.env = simpy.Environment()
        self.profile = profile
        self.prompts = [Prompt(self.env.event()) for _ in range(prompts)]
        self.decoders = [Decoder(self.env.event()) for _ in range(decoders)]
        for prompt in self.prompts:
            self.env.process(self._prefill(prompt))
        for decoder in self.decoders:
            self.env.process(self._decode(decoder))

    def run(self, offered: Arrivals) -> list[float]:
        """Return when each request was done."""
        jobs = [
            Job(int(given), int(wanted), int(uncached))
            for given, wanted, uncached in zip(
                offered.input_tokens, offered.output_tokens, offered.uncached_tokens, strict=True
            )
        ]
        self.env.process(self._arrive(jobs, offered.at_s.tolist()))
        self.env.run()
        return [job.done_s for job in jobs]

    def _wake(self, node: Prompt | Decoder) -> None:
        if not node.wake.triggered:
            node.wake.succeed()

    def _arrive(self, jobs: list[Job], at_s: list[float]) -> Steps:
        for job, when_s in zip(jobs, at_s, strict=True):
            if when_s > self.env.now:
                yield self.env.timeout(when_s - self.env.now)
            prompt = min(self.prompts, key=lambda node: node.load)
            prompt.queue.append(job)
            prompt.load += job.uncached
            job.source = prompt
            self._wake(prompt)

    def _batch(self, prompt: Prompt) -> list[Job]:
        batch: list[Job] = []
        tokens = 0
        while prompt.queue:
            job = prompt.queue[0]
            if batch and tokens + job.uncached > self.profile.prefill_tokens_max:
                break
            if prompt.kv_held and prompt.kv_held + job.input_tokens > self.profile.kv_tokens:
                break
            batch.append(prompt.queue.popleft())
            tokens += job.uncached
            prompt.kv_held += job.input_tokens
        return batch

    def _prefill(self, prompt: Prompt) -> Steps:
        while True:
            batch = self._batch(prompt)
            if not batch:
                prompt.wake = self.env.event()
                yield prompt.wake
                continue
            tokens = sum(job.uncached for job in batch)
            squares = sum(
                job.input_tokens**2 - (job.input_tokens - job.uncached) ** 2 for job in batch
            )
            yield self.env.timeout(self.profile.prefill_s(tokens, float(squares)))
            prompt.load -= tokens
            for job in batch:
                decoder = min(self.decoders, key=lambda node: node.load)
                decoder.load += job.input_tokens
                decoder.queue.append(job)
                self._admit(decoder)

    def _admit(self, decoder: Decoder) -> None:
        context = sum(job.input_tokens + job.generated for job in decoder.batch)
        while decoder.queue:
            job = decoder.queue[0]
            inside = len(decoder.batch) + len(decoder.pulled) + decoder.pulling
            held = context + decoder.kv_coming
            if inside and (
                inside >= self.profile.batch_max or held + job.input_tokens > self.profile.kv_tokens
            ):
                return
            decoder.queue.popleft()
            decoder.pulling += 1
            decoder.kv_coming += job.input_tokens
            self.env.process(self._pull(decoder, job))

    def _pull(self, decoder: Decoder, job: Job) -> Steps:
        source = job.source
        assert source is not None
        begins_s = max(self.env.now, source.nic_free_s, decoder.nic_free_s)
        size = job.input_tokens * self.profile.kv_bytes_per_token
        ends_s = begins_s + size / self.profile.pull_bytes_per_s
        source.nic_free_s = decoder.nic_free_s = ends_s
        yield self.env.timeout(ends_s - self.env.now)
        source.kv_held -= job.input_tokens
        self._wake(source)
        decoder.pulling -= 1
        decoder.pulled.append(job)
        self._wake(decoder)

    def _decode(self, decoder: Decoder) -> Steps:
        while True:
            for job in decoder.pulled:
                decoder.kv_coming -= job.input_tokens
            decoder.batch += decoder.pulled
            decoder.pulled = []
            if not decoder.batch:
                decoder.wake = self.env.event()
                yield decoder.wake
                continue
            context = sum(job.input_tokens + job.generated for job in decoder.batch)
            yield self.env.timeout(self.profile.decode_step_s(len(decoder.batch), context))
            for job in decoder.batch:
                job.generated += 1
                if job.generated == job.output_tokens:
                    job.done_s = self.env.now
                    decoder.load -= job.input_tokens
            decoder.batch = [job for job in decoder.batch if job.generated < job.output_tokens]
            self._admit(decoder)
