"""The gate: which caller may change something, and which process it meant."""

from pd_autoscaler.agent.refusals import RefusedError
from pd_autoscaler.agent.wire import Mutation


class Gate:
    """Remembers the highest fence seen; a caller that has been replaced gets nothing done."""

    def __init__(self, incarnation: str) -> None:
        self.incarnation = incarnation
        self.epoch = 0
        self.holder = ""

    def admit(self, request: Mutation) -> None:
        """Let a request pass and remember its fence, or raise RefusedError and change nothing."""
        if request.epoch < self.epoch:
            raise RefusedError(
                "fenced",
                f"epoch {request.epoch} of {request.holder} is over: "
                f"{self.holder} holds epoch {self.epoch}",
            )
        if request.epoch == self.epoch and self.holder not in {"", request.holder}:
            raise RefusedError(
                "fenced",
                f"epoch {request.epoch} is held by {self.holder}, not by {request.holder}",
            )
        if request.incarnation != self.incarnation:
            raise RefusedError(
                "incarnation_mismatch",
                f"this is incarnation {self.incarnation}, the request means "
                f"{request.incarnation or 'none'}",
            )
        self.epoch, self.holder = request.epoch, request.holder
