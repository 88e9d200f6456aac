"""The fleet of requests as simple as can be: every token a step, every queue a list."""

import math
from dataclasses import dataclass, field

from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.model.node import Role
from pd_autoscaler.workload.request import Request

NEVER = math.inf


@dataclass(eq=False)
class Job:
    row: int
    request: Request
    computed: int = 0
    chunk: int = 0
    generated: int = 0
    prompt: "Node | None" = None
    needs_recompute: bool = False
    pulled_s: float = NEVER
    first_token_s: float = math.nan
    done_s: float = math.nan

    @property
    def uncached(self) -> int:
        return self.request.input_tokens - self.request.cached_tokens

    @property
    def context(self) -> int:
        return self.request.input_tokens + self.generated


@dataclass(eq=False)
class Node:
    slot: int
    role: Role
    profile: EngineProfile
    is_published: bool = False
    picked: int = 0
    nic_free_s: float = 0.0
    queue: list[Job] = field(default_factory=list)
    batch: list[Job] = field(default_factory=list)
    batch_tokens: int = 0
    batch_ends_s: float = NEVER
    unpulled: list[Job] = field(default_factory=list)
    pulling: list[Job] = field(default_factory=list)
    pulled: list[Job] = field(default_factory=list)
    generation_tokens: int = 0
    preemptions: int = 0
    transfer_failures: int = 0

    @property
    def next_s(self) -> float:
        pull_s = self.pulling[0].pulled_s if self.pulling else NEVER
        return min(self.batch_ends_s, pull_s)

    @property
    def weight(self) -> int:
        if self.role is Role.PROMPT:
            # What is left of a prompt counts until the end of the chunk that computes it.
            waiting = sum(job.uncached for job in self.queue)
            return waiting + sum(job.uncached - job.computed for job in self.batch)
        inside = self.queue + self.pulling + self.pulled + self.batch
        return sum(job.request.input_tokens for job in inside)

    @property
    def kv_tokens(self) -> int:
        if self.role is Role.PROMPT:
            return sum(job.request.input_tokens for job in self.batch + self.unpulled)
        return sum(job.context for job in self.pulling + self.pulled + self.batch)

    def counts(self) -> tuple[int, int, int, int]:
        """Waiting, deferred, running, unpulled."""
        deferred = len(self.pulling) + len(self.pulled)
        return len(self.queue), deferred, len(self.batch), len(self.unpulled)


class NaiveFleet:
    """Does what `RequestFleet` is to do, step by step."""

    def __init__(
        self, profile: EngineProfile, *, patience_s: float = NEVER, is_chunked: bool = False
    ) -> None:
        self.profile, self.patience_s, self.is_chunked = profile, patience_s, is_chunked
        self.now_s = 0.0
        self.nodes: dict[int, Node] = {}
        self.jobs: list[Job] = []
        self.to_come: list[Job] = []
        self.at_router: list[Job] = []
        self.unsent: list[Job] = []
        self.cut: set[tuple[int, int]] = set()
        self.picks = 0

    def add(self, role: Role) -> int:
        slot = next(slot for slot in range(len(self.nodes) + 1) if slot not in self.nodes)
        self.nodes[slot] = Node(slot, role, self.profile)
        self.cut = {pair for pair in self.cut if slot not in pair}
        return slot

    def offer(self, requests: list[Request]) -> None:
        for request in requests:
            self.jobs.append(Job(len(self.jobs), request))
            self.to_come.append(self.jobs[-1])

    def set_linked(self, decoder: int, prompt: int, is_linked: bool) -> None:
        if is_linked:
            self.cut.discard((decoder, prompt))
        else:
            self.cut.add((decoder, prompt))

    def publish(self, slot: int) -> None:
        self.nodes[slot].is_published = True
        while self.at_router and self._least(Role.PROMPT):
            self._send_prompt(self.at_router.pop(0))
        while self.unsent and self._least(Role.DECODER):
            self._send_decoder(self.unsent.pop(0))

    def withdraw(self, slot: int) -> None:
        self.nodes[slot].is_published = False

    def remove(self, slot: int) -> None:
        gone = self.nodes.pop(slot)
        for job in gone.queue + gone.batch + gone.pulling + gone.pulled:
            if gone.role is Role.DECODER and job.prompt and job in job.prompt.unpulled:
                self._free_kv(job)
        self.unsent = [job for job in self.unsent if job.prompt is not gone]
        for other in sorted(self.nodes):
            node = self.nodes[other]
            before = len(node.queue) + len(node.pulling)
            kept = [job for job in node.pulling if job.prompt is not gone]
            node.transfer_failures += len(node.pulling) - len(kept)
            node.pulling = kept
            node.queue = [
                job for job in node.queue if job.prompt is not gone or job.needs_recompute
            ]
            if len(node.queue) + len(node.pulling) < before:
                self._admit(node, at_boundary=False)

    def advance(self, until_s: float) -> None:
        while True:
            decoders = [node for node in self._by_slot() if node.role is Role.DECODER]
            prompts = [node for node in self._by_slot() if node.role is Role.PROMPT]
            due = min(decoders + prompts, key=lambda node: node.next_s, default=None)
            event_s = due.next_s if due else NEVER
            arrival_s = self.to_come[0].request.at_s if self.to_come else NEVER
            if min(event_s, arrival_s) > until_s or min(event_s, arrival_s) == NEVER:
                self.now_s = until_s
                return
            self.now_s = min(event_s, arrival_s)
            if due is None or arrival_s < event_s:
                self._send_prompt(self.to_come.pop(0))
            elif due.role is Role.PROMPT:
                self._end_batch(due)
            elif due.pulling and due.pulling[0].pulled_s <= due.batch_ends_s:
                self._end_pull(due)
            else:
                self._end_step(due)

    def _by_slot(self) -> list[Node]:
        return [self.nodes[slot] for slot in sorted(self.nodes)]

    def _least(self, role: Role) -> Node | None:
        published = [n for n in self._by_slot() if n.role is role and n.is_published]
        return min(published, key=lambda node: (node.weight, node.picked), default=None)

    def _pick(self, role: Role) -> Node | None:
        node = self._least(role)
        if node is not None:
            self.picks += 1
            node.picked = self.picks
        return node

    def _send_prompt(self, job: Job) -> None:
        node = self._pick(Role.PROMPT)
        if node is None:
            self.at_router.append(job)
            return
        job.prompt = node
        node.queue.append(job)
        if node.batch_ends_s == NEVER:
            self._begin_batch(node)

    def _begin_batch(self, node: Node) -> None:
        top = node.profile.prefill_tokens_max
        chunks = {job: min(job.uncached - job.computed, top) for job in node.batch}
        while node.queue:
            job = node.queue[0]
            if self.now_s - job.request.at_s > self.patience_s:
                node.queue.pop(0)
                continue
            left = top - sum(chunks.values())
            if chunks and (left <= 0 if self.is_chunked else left < job.uncached):
                break
            held = node.kv_tokens
            if held and held + job.request.input_tokens > node.profile.kv_tokens:
                break
            node.batch.append(node.queue.pop(0))
            chunks[job] = min(job.uncached, left) if self.is_chunked else job.uncached
        squares = 0.0
        for job, tokens in chunks.items():
            before = job.request.cached_tokens + job.computed
            squares += (before + tokens) ** 2 - before**2
        node.batch_tokens = sum(chunks.values())
        node.batch_ends_s = NEVER
        for job, tokens in chunks.items():
            job.chunk = tokens
        if chunks:
            node.batch_ends_s = self.now_s + node.profile.prefill_s(node.batch_tokens, squares)

    def _end_batch(self, node: Node) -> None:
        for job in node.batch:
            job.computed += job.chunk
        while node.batch and node.batch[0].computed == node.batch[0].uncached:
            job = node.batch.pop(0)
            node.unpulled.append(job)
            self._send_decoder(job)
        self._begin_batch(node)

    def _free_kv(self, job: Job) -> None:
        node = job.prompt
        assert node is not None
        node.unpulled.remove(job)
        if node.batch_ends_s == NEVER and node.slot in self.nodes:
            self._begin_batch(node)

    def _send_decoder(self, job: Job) -> None:
        node = self._pick(Role.DECODER)
        if node is None:
            self.unsent.append(job)
            return
        node.queue.append(job)
        self._admit(node, at_boundary=False)

    def _admit(self, node: Node, *, at_boundary: bool) -> None:
        while node.queue:
            job = node.queue[0]
            inside = len(node.pulling) + len(node.pulled) + len(node.batch)
            no_kv = node.kv_tokens + job.context > node.profile.kv_tokens
            if inside and (inside >= node.profile.batch_max or no_kv):
                break
            node.queue.pop(0)
            if job.needs_recompute:
                node.pulled.append(job)
            else:
                self._begin_pull(node, job)
        if not at_boundary and not node.batch and node.pulled:
            self._begin_step(node)

    def _begin_pull(self, node: Node, job: Job) -> None:
        assert job.prompt is not None
        if (node.slot, job.prompt.slot) in self.cut:
            node.transfer_failures += 1
            self._free_kv(job)
            return
        size = job.request.input_tokens * node.profile.kv_bytes_per_token
        begins_s = max(self.now_s, node.nic_free_s, job.prompt.nic_free_s)
        job.pulled_s = begins_s + size / node.profile.pull_bytes_per_s
        node.nic_free_s = job.prompt.nic_free_s = job.pulled_s
        node.pulling.append(job)

    def _end_pull(self, node: Node) -> None:
        job = node.pulling.pop(0)
        node.pulled.append(job)
        self._free_kv(job)
        if not node.batch:
            self._begin_step(node)

    def _begin_step(self, node: Node) -> None:
        stall_s = 0.0
        for job in node.pulled:
            if job.needs_recompute:
                stall_s += node.profile.prefill_s(job.context, float(job.context) ** 2)
            job.needs_recompute = False
            node.batch.append(job)
        node.pulled = []
        node.batch_ends_s = NEVER
        if node.batch:
            step_s = node.profile.decode_step_s(len(node.batch), node_context(node))
            node.batch_ends_s = self.now_s + stall_s + step_s

    def _end_step(self, node: Node) -> None:
        for job in list(node.batch):
            job.generated += 1
            node.generation_tokens += 1
            if job.generated == 1:
                job.first_token_s = self.now_s
            if job.generated == job.request.output_tokens:
                job.done_s = self.now_s
                node.batch.remove(job)
        while len(node.batch) > 1 and node.kv_tokens > node.profile.kv_tokens:
            job = node.batch.pop()
            job.needs_recompute = True
            node.preemptions += 1
            node.queue.insert(0, job)
        self._admit(node, at_boundary=True)
        self._begin_step(node)


def node_context(node: Node) -> int:
    return sum(job.context for job in node.batch)
