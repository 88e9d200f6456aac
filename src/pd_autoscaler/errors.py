"""The exception tree: what went wrong decides what happens next."""


class PdAutoscalerError(Exception):
    """Anything this package raises on purpose."""


class ConfigError(PdAutoscalerError):
    """A value a person gave is wrong; the message names it, its place and the fix."""


class TransitionError(PdAutoscalerError):
    """A state was asked to make a move that its table does not have."""


class TransientError(PdAutoscalerError):
    """It did not happen, and may work when tried again."""


class PermanentError(PdAutoscalerError):
    """It did not happen, and will not until somebody changes something."""


class OutcomeUnknownError(PdAutoscalerError):
    """A deadline passed; the effect may have happened or may yet happen."""
