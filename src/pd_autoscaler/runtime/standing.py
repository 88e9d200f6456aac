"""What stands between cycles: the target, the mode, and what operators asked for."""

import logging
from collections.abc import Callable

from pd_autoscaler.core.target_limits import within
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Mode, Target
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.report import Report
from pd_autoscaler.model.snapshot import Limits
from pd_autoscaler.ports import Journal, Remembered

log = logging.getLogger(__name__)


class Standing:
    """Holds the standing target and the mode, and implements `ports.Control` over them.

    Every change of target or mode is in the journal before it counts; a journal that cannot be
    written raises TransientError and nothing changes. `poke` runs a cycle early.
    """

    def __init__(
        self, journal: Journal, limits: Limits, *, is_advisory: bool, poke: Callable[[], None]
    ) -> None:
        self._journal = journal
        self._limits = limits
        self._is_advisory = is_advisory
        self._poke = poke
        self.mode = Mode.ADVISORY if is_advisory else Mode.ACTIVE
        self.target: Target | None = None
        self.drains: frozenset[str] = frozenset()
        self.latest: Report | None = None

    def take_up(self, remembered: Remembered) -> None:
        """Take up what the journal remembers; advisory comes from the settings alone."""
        self.drains = remembered.drains
        mode, target = Mode(remembered.mode), remembered.target
        if not self._is_advisory and mode is not Mode.ADVISORY:
            self.mode = mode
        if target is not None:
            # The limits may have changed since: they hold for what is remembered, too.
            self.target = within(
                Target(*target, why="remembered from before the restart"), self._limits
            )

    async def move(self, target: Target) -> None:
        """Make this the standing target."""
        await self._journal.set_target(target.prompt, target.decoder, target.why)
        log.info("target %s -> %s: %s", self.target or "unset", target, target.why)
        self.target = target

    async def pause(self, *, everything: bool) -> Mode:
        """Keep the target (repairs go on), or with `everything` take no action at all."""
        return await self._enter(Mode.STOPPED if everything else Mode.PAUSED)

    async def resume(self) -> Mode:
        """Let the policy decide again."""
        return await self._enter(Mode.ACTIVE)

    async def _enter(self, mode: Mode) -> Mode:
        self._refuse_if_advisory()
        await self._journal.set_mode(mode.value)
        self.mode = mode
        log.warning("mode is now %s", mode)
        self._poke()
        return mode

    def _refuse_if_advisory(self) -> None:
        if self._is_advisory:
            raise ConfigError(
                "loop.advisory is true, so this controller never acts; "
                "set it to false and restart to pause, resume, scale or drain"
            )

    async def scale(self, prompt: int, decoder: int) -> Target:
        """Set the standing target and pause the policy; refused outside the limits."""
        for role, count in ((Role.PROMPT, prompt), (Role.DECODER, decoder)):
            least, most = self._limits.min_of(role), self._limits.max_of(role)
            if not least <= count <= most:
                raise ConfigError(
                    f"{count} {role} nodes are outside guard.{role}_min to guard.{role}_max "
                    f"({least} to {most}); ask for a count within them or change the limits"
                )
        if prompt + decoder > self._limits.nodes_max:
            raise ConfigError(
                f"{prompt} + {decoder} nodes exceed guard.nodes_max ({self._limits.nodes_max}); "
                "ask for fewer or raise the limit"
            )
        target = Target(prompt, decoder, why="an operator asked for it")
        await self._enter(Mode.PAUSED)
        await self.move(target)
        return target

    async def drain(self, node_id: str) -> None:
        """Take a serving node out, its replacement first; refused for a node unknown or leaving."""
        self._refuse_if_advisory()
        nodes = {n.id: n for n in self.latest.snapshot.nodes} if self.latest is not None else {}
        node = nodes.get(node_id)
        if node is None:
            known = ", ".join(sorted(nodes)) or "none"
            raise ConfigError(f"there is no node {node_id!r}; the nodes are: {known}")
        if node.state is not NodeState.SERVING:
            raise ConfigError(f"node {node_id} is {node.state}; only a serving node can be drained")
        asked = self.drains | {node_id}
        await self._journal.set_drains(asked)
        self.drains = asked
        log.warning("node %s was asked to drain", node_id)
        self._poke()
