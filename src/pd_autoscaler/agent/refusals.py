"""Refusals: why the agent did nothing, as the caller will read it."""

from pd_autoscaler.errors import PdAutoscalerError

_STATUS = {
    "bad_request": 400,
    "unauthorised": 401,
    "fenced": 409,
    "incarnation_mismatch": 409,
    "already_initialised": 409,
    "hung_calls": 409,
    "cannot_switch": 422,
    "links_left": 503,
    "not_ready": 503,
    "no_free_slot": 503,
    "library_failed": 500,
    "internal_error": 500,
    "deadline": 504,
}


class RefusedError(PdAutoscalerError):
    """The agent's answer is an error; `reason` is from the closed set of `wire.ErrorReply`.

    All but `deadline` mean that nothing was done or that it failed; after `deadline` the effect
    is possible. `status` is the HTTP status: 5xx may work later, 4xx will not.
    """

    def __init__(self, reason: str, error: str, *, status: int | None = None) -> None:
        super().__init__(error)
        self.reason = reason
        self.error = error
        self.status = _STATUS[reason] if status is None else status
