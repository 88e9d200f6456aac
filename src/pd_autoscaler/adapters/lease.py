"""The lease of a controller that is alone: it always leads; agents fence off any other by epoch."""


class SoleLease:
    """`ports.Lease` for one replica; `holder` must differ from that of any other process."""

    def __init__(self, holder: str) -> None:
        self._holder = holder

    @property
    def is_leader(self) -> bool:
        """True: nobody else is asked."""
        return True

    @property
    def holder(self) -> str:
        """This controller's name."""
        return self._holder
