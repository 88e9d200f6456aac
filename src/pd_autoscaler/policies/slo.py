"""slo: both roles sized for the demand that is expected when a node asked for now would serve.

Prompt nodes are sized by the tail of their waits, decoders by the requests that are in their
batches at once, with what one node was learnt to do. Growth is asked for at once and whole, from
what will be missing then; shrinking waits until fewer were enough for as long as a node takes to
come back. Where the learnt numbers say enough and the targets are missed, the targets are right.
A role whose capacity is not learnt yet is moved by queue-pressure's thresholds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pd_autoscaler.core import target_limits
from pd_autoscaler.core.sizing import split
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Bottleneck, Snapshot
from pd_autoscaler.policies.contract import PolicySpec
from pd_autoscaler.policies.premises import Settling, blindness
from pd_autoscaler.policies.queue_pressure import QueuePressure, QueuePressureParams
from pd_autoscaler.policies.slo_history import Correction, Needs
from pd_autoscaler.policies.slo_missed import missed
from pd_autoscaler.policies.slo_nodes import decoder_node, lead_s, prefill_rate
from pd_autoscaler.policies.slo_outlook import begun, outlook
from pd_autoscaler.policies.slo_params import SloParams
from pd_autoscaler.policies.slo_seen import seen
from pd_autoscaler.policies.slo_sides import Moment, Size, decoder_size, prompt_size


@dataclass(frozen=True, slots=True)
class _Ask:
    """The count asked for of one role, the need behind it, why, and what kept it from growing.

    `lasting` is the need without a queue that has built up: by it a full budget is shared, for a
    queue that only grows would draw in one node after the other.
    """

    count: int
    need: int
    lasting: int
    why: str
    block: Hold | None = None


class Slo:
    """Sizes both roles; remembers what it saw of demand, needs and misses, all bounded."""

    def __init__(self, params: SloParams) -> None:
        self._params = params
        self._fallback = QueuePressure(
            QueuePressureParams(
                ttft_max_s=params.ttft_s, tpot_max_s=params.tpot_s, settle_s=params.settle_s
            )
        )
        self._settling = Settling(params.settle_s)
        self._prompt_track = self._decoder_track = begun(params)
        self._needs = {role: Needs() for role in Role}
        self._corrections = {
            role: Correction(breach_s=params.breach_s, heal_s=params.heal_s) for role in Role
        }
        self._kv_room: float | None = None

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts that the demand to come calls for, or a refusal with its reason."""
        self._settling.saw(snapshot)
        for role in Role:
            if blind := blindness(snapshot, role):
                self._unseen(snapshot)
                return blind
        at = self._observed(snapshot)
        sizes = {Role.PROMPT: self._prompt(at), Role.DECODER: self._decoder(at)}
        if not any(sizes.values()):
            self._unseen(snapshot)
            return _by_thresholds(self._fallback.decide(snapshot))
        asks = {
            role: self._asked(at, role, size) if size else self._unlearnt(snapshot, role)
            for role, size in sizes.items()
        }
        return self._answer(snapshot, asks)

    def _unseen(self, snapshot: Snapshot) -> None:
        """Count what stands as needed: nobody saw that less was."""
        for role, needs in self._needs.items():
            needs.saw(snapshot.target.of(role), now_s=snapshot.now_s)

    def _observed(self, snapshot: Snapshot) -> Moment:
        found, params = seen(snapshot), self._params
        lead, now_s = lead_s(snapshot, params), snapshot.now_s
        self._kv_room = found.kv_room or self._kv_room
        self._prompt_track, prompt = outlook(
            self._prompt_track, found.prompt_tokens_per_s, now_s=now_s, lead_s=lead, params=params
        )
        self._decoder_track, decoder = outlook(
            self._decoder_track, found.output_tokens_per_s, now_s=now_s, lead_s=lead, params=params
        )
        return Moment(snapshot, found, prompt, decoder, lead, params)

    def _prompt(self, at: Moment) -> Size | None:
        rate = prefill_rate(at.snapshot)
        if rate is None:
            return None

        def size_at(share: float) -> Size | None:
            return prompt_size(at, rate=rate, share=share)

        return self._checked(at, Role.PROMPT, size_at)

    def _decoder(self, at: Moment) -> Size | None:
        node = decoder_node(at.snapshot, at.seen, self._params, kv_room=self._kv_room)
        if node is None:
            return None

        def size_at(share: float) -> Size | None:
            return decoder_size(at, node=node, share=share)

        return self._checked(at, Role.DECODER, size_at)

    def _checked(
        self, at: Moment, role: Role, size_at: Callable[[float], Size | None]
    ) -> Size | None:
        """Return the size at the part of the capacity that is believed, and learn from misses."""
        snapshot, params, now_s = at.snapshot, self._params, at.snapshot.now_s
        correction, nodes = self._corrections[role], snapshot.serving(role)
        size = size_at(correction.share(now_s=now_s))
        if size is None or not params.has_correction:
            return size
        told = missed(snapshot, role, params, at.seen) if size.is_attainable else ""
        is_enough = size.need <= nodes and not self._settling.obstacle_up(snapshot, role)
        correction.saw(
            is_missed=bool(told) and is_enough,
            nodes=nodes,
            need_at=lambda share: found.need if (found := size_at(share)) else 0,
            now_s=now_s,
        )
        least = correction.least(now_s=now_s)
        if not told and least <= size.need:
            return size
        why = f"{size.why}; {told or f'fewer than {least} missed the target'}"
        # One that misses its target has none to spare, whatever the model says.
        spared = max(size.enough, least, nodes if told else 0)
        return replace(size, need=max(size.need, least), enough=spared, why=why)

    def _asked(self, at: Moment, role: Role, size: Size) -> _Ask:
        snapshot = at.snapshot
        standing, limits = snapshot.target.of(role), snapshot.limits
        self._needs[role].saw(size.enough, now_s=snapshot.now_s)
        most = max(1, limits.max_of(role))
        if size.need > standing:
            return self._grown(snapshot, role, size)
        enough, obstacle = self._enough(snapshot, role, size)
        if enough < standing and not obstacle:
            fewer = min(max(enough, standing - self._params.step_down), most)
            why = f"{size.why}; {enough} long enough"
            return _Ask(fewer, size.need, size.enough, why)
        kept = f"; {obstacle}" if obstacle and size.need < standing else ""
        return _Ask(min(standing, most), size.need, size.enough, f"{size.why}{kept}")

    def _unlearnt(self, snapshot: Snapshot, role: Role) -> _Ask:
        """Move a role by thresholds as long as nobody knows what its nodes can do."""
        standing, told = snapshot.target.of(role), "its capacity is not learnt yet"
        # Asked after a pause it takes what moved meanwhile for new, and waits for it to settle.
        answer = self._fallback.decide(snapshot)
        if isinstance(answer, Hold):
            why = f"{told}, {answer.detail or answer.reason}"
            return _Ask(standing, standing, standing, why)
        count = answer.of(role)
        return _Ask(count, count, count, f"{told}, by thresholds: {answer.why}")

    def _grown(self, snapshot: Snapshot, role: Role, size: Size) -> _Ask:
        standing, cause = snapshot.target.of(role), snapshot.attribution
        need, most = size.need, max(1, snapshot.limits.max_of(role))
        if snapshot.is_fault_elsewhere(role):
            told = f"{size.why}, but the {cause.bottleneck} side is at fault"
            detail = f"{need} {role} look needed, {told}: {cause.evidence}"
            block = Hold(HoldReason.BOTTLENECK_ELSEWHERE, detail)
            return _Ask(standing, standing, standing, told, block)
        told = f" of {need} wanted" if need > most else ""
        return _Ask(min(need, most), need, max(1, size.enough), f"{size.why}{told}")

    def _enough(self, snapshot: Snapshot, role: Role, size: Size) -> tuple[int, str]:
        """Return how few have been enough for long, and why none may go yet."""
        least = max(1, snapshot.limits.min_of(role))
        keep_s = size.keep_s if self._params.waits_to_shrink else 0.0
        most = self._needs[role].most(since_s=snapshot.now_s - keep_s)
        if most is None:
            return least, f"not watched for {keep_s:.0f} s yet"
        cause = snapshot.attribution
        if cause.bottleneck in {Bottleneck.LINK, Bottleneck.UNKNOWN}:
            return least, f"bottleneck {cause.bottleneck}: {cause.evidence}"
        if most >= snapshot.target.of(role) > max(size.need, least):
            return max(most, least), f"up to {most} were needed in the last {keep_s:.0f} s"
        return max(most, least), self._settling.obstacle_down(snapshot, role)

    def _answer(self, snapshot: Snapshot, asks: Mapping[Role, _Ask]) -> Decision:
        prompt, decoder = asks[Role.PROMPT], asks[Role.DECODER]
        why = "; ".join(f"{role} {ask.need}: {ask.why}" for role, ask in asks.items())
        wanted = Target(prompt.count, decoder.count, why)
        if wanted.total > snapshot.limits.nodes_max:
            wanted = self._shared(snapshot, Target(prompt.lasting, decoder.lasting), why)
        wanted = target_limits.within(wanted, snapshot.limits, standing=snapshot.target)
        blocks = [ask.block for ask in asks.values() if ask.block]
        return blocks[0] if blocks and wanted == snapshot.target else wanted

    def _shared(self, snapshot: Snapshot, needs: Target, why: str) -> Target:
        """Go towards the best split of a full budget, by one node of the role that must give."""
        standing, limits = snapshot.target, snapshot.limits
        best = split(needs, limits, standing)
        told = f"{why}; {limits.nodes_max} nodes at most, best shared {best}"
        room = max(0, limits.nodes_max - standing.total)
        for role in Role:
            more = best.of(role) - standing.of(role)
            if more <= 0 or (more <= room and best.of(role.other) >= standing.of(role.other)):
                continue
            gives = best.of(role.other) < standing.of(role.other) and not (
                self._settling.obstacle_down(snapshot, role.other)
                or snapshot.is_fault_elsewhere(role)
            )
            count = standing.of(role) + min(more, room + gives)
            return _of(role, count, standing.of(role.other) - gives, told)
        return Target(max(best.prompt, standing.prompt), max(best.decoder, standing.decoder), told)


def _of(role: Role, count: int, other: int, why: str) -> Target:
    return Target(count, other, why) if role is Role.PROMPT else Target(other, count, why)


def _by_thresholds(fallback: Decision) -> Decision:
    told = "no capacity is learnt yet, by thresholds: "
    if isinstance(fallback, Hold):
        return replace(fallback, detail=told + fallback.detail)
    return replace(fallback, why=told + fallback.why)


SPEC = PolicySpec(params=SloParams, build=Slo)
