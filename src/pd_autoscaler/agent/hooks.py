"""What an engine tells its agent, and what the agent asks of the engine."""

from typing import Protocol

from pd_autoscaler.agent.wire import EngineWire


class EngineHooks(Protocol):
    """The engine beside the agent; both methods are called in an agent's thread and may block."""

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


class NoHooks:
    """An engine that tells nothing and has its memory registered elsewhere."""

    def load(self) -> EngineWire:
        """Return that everything is unknown."""
        return EngineWire()

    def register_memory(self) -> None:
        """Do nothing."""
