"""The plug-in contract: what a policy is, and what an entry point points at."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from pd_autoscaler.model.decision import Decision
from pd_autoscaler.model.snapshot import Snapshot

API_VERSION = 1
"""Raised when a change would break existing policies."""


class Params(BaseModel):
    """A policy's parameters: misspelt keys are refused, values cannot change later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Policy(Protocol):
    """A function of the snapshots shown so far: no clock, no randomness, no I/O."""

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts that are wanted, or a refusal with its reason."""
        ...


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """What an entry point of the group `pd_autoscaler.policies` points at."""

    params: type[Params]
    build: Callable[[Any], Policy]
    api_version: int = API_VERSION
