"""Complaints: what fails now, told once when it begins and once when it ends."""

import logging
from collections.abc import Collection, Mapping

import anyio

log = logging.getLogger(__name__)


class Complaints:
    """The last error of each thing that failed when it was last tried, by name.

    `of` begins the log lines, such as "metrics of p1 failing".
    """

    def __init__(self, of: str = "metrics of") -> None:
        self._of = of
        self._errors: dict[str, str] = {}
        self._since_s: dict[str, float] = {}

    @property
    def errors(self) -> Mapping[str, str]:
        """What is wrong now, by name."""
        return dict(self._errors)

    def failed(self, name: str, error: str) -> None:
        """Note that it failed."""
        self._errors[name] = error
        if name not in self._since_s:
            self._since_s[name] = anyio.current_time()
            log.warning("%s %s failing: %s", self._of, name, error)

    def worked(self, name: str) -> None:
        """Note that it worked."""
        self._errors.pop(name, None)
        since_s = self._since_s.pop(name, None)
        if since_s is not None:
            log.info("%s %s back after %.0fs", self._of, name, anyio.current_time() - since_s)

    def keep(self, names: Collection[str]) -> None:
        """Forget whatever is not named: it is no more, so it will not come back."""
        for gone in self._errors.keys() - set(names):
            del self._errors[gone], self._since_s[gone]
