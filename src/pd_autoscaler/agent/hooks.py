"""What an engine tells its agent, and what the agent asks of the engine."""

from typing import Protocol

from pd_autoscaler.agent.wire import EngineWire
from pd_autoscaler.errors import PermanentError
from pd_autoscaler.model.node import Role


class EngineHooks(Protocol):
    """The engine beside the agent; its methods are called in an agent's thread and may block.

    `can_switch_role` says whether the engine can take the other role without a restart; it is read
    in the agent's event loop.
    """

    @property
    def can_switch_role(self) -> bool: ...  # noqa: D102  # Told above: an attribute will do.

    def load(self) -> EngineWire:
        """Return the requests inside the engine; what cannot be told is None, never zero."""
        ...

    def register_memory(self) -> None:
        """Register the KV memory with the library object.

        Called once after each initialisation and before anything links, because memory that is
        registered later is not reachable over links that already exist (hicann/hixl
        docs/zh/api/python/LLMDataDist.md).
        """
        ...

    def switch_role(self, role: Role) -> None:
        """Become a node of this role, or raise and stay what it was.

        Called after the library took the role, with every link gone; what is registered with the
        library stays so. Should it raise, the library is switched back.
        """
        ...


class NoHooks:
    """An engine that tells nothing, keeps its role and has its memory registered elsewhere."""

    can_switch_role = False

    def load(self) -> EngineWire:
        """Return that everything is unknown."""
        return EngineWire()

    def register_memory(self) -> None:
        """Do nothing."""

    def switch_role(self, role: Role) -> None:
        """Refuse."""
        raise PermanentError(f"this engine cannot become a {role} node")
