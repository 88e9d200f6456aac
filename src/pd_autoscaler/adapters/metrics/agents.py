"""No pages: the metrics source of engines that export none."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pd_autoscaler.model.facts import Scraped
from pd_autoscaler.model.node import Node
from pd_autoscaler.model.signals import Reading


class NoPages:
    """A MetricsSource without a reading of anything.

    The observer reads every agent's state anyway, and an engine's load is part of it: the
    readings are made of that where all readings are made use of, so nothing is left to ask for.
    """

    errors: Mapping[str, str] = MappingProxyType({})
    scraped = Scraped()

    async def read(self, nodes: Sequence[Node]) -> Mapping[str, Reading]:
        """Return no reading."""
        return {}
