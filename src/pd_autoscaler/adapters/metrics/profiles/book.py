"""The book of profiles: which one a node's pages are read with."""

from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches

from pd_autoscaler.adapters.metrics.exposition import PageError
from pd_autoscaler.adapters.metrics.profiles.profile import Profile
from pd_autoscaler.adapters.metrics.profiles.strangers import cause, cause_of_names
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Node, Role

AUTO = "auto"
"""In the place of a profile's name: the engine is told by the names on its page."""

REMEMBERED_MAX = 20_000


class ProfileBook:
    """Profiles by name, and by what is on a page.

    Raises ConfigError when two share a name, and when there is none of the default's.
    """

    def __init__(self, profiles: Iterable[Profile], default: str = AUTO) -> None:
        self._by_name: dict[str, Profile] = {}
        self._profiles = tuple(profiles)
        for profile in self._profiles:
            for name in (profile.name, *profile.aliases):
                if name in self._by_name or name == AUTO:
                    raise ConfigError(
                        f"two engine profiles are named {name!r}; give one another name"
                    )
                self._by_name[name] = profile
        if default != AUTO:
            self.named(default)
        self._default = default
        self._seen: dict[str, Profile] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names there are, other names of the same profile included."""
        return tuple(sorted(self._by_name))

    def named(self, name: str) -> Profile:
        """Return a profile, or raise ConfigError listing those there are."""
        if name not in self._by_name:
            close = get_close_matches(name, self._by_name, n=1)
            meant = f", did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"no engine profile {name!r}{meant} (there are: {self._list()})")
        return self._by_name[name]

    def chosen(self, node: Node, page: bytes) -> Profile:
        """Return the profile of a node's page: the node's own, the default, or the engine's.

        The engine of each node is remembered for as long as its pages have its names. Raises
        PageError where the node names a profile that does not exist, and where the names on the
        page are those of no engine or of several.
        """
        return self._fixed(node) or self._of_engine(
            node,
            lambda profile: profile.is_on(page),
            lambda: cause(page, self._told(), self._all()),
        )

    def chosen_for(self, node: Node, names: Collection[str]) -> Profile:
        """Return the profile of a node whose samples have these names; else as `chosen`."""
        return self._fixed(node) or self._of_engine(
            node,
            lambda profile: profile.is_among(names),
            lambda: cause_of_names(names, self._told(), self._all()),
        )

    def _fixed(self, node: Node) -> Profile | None:
        name = node.profile or self._default
        if name == AUTO:
            return None
        try:
            return self.named(name)
        except ConfigError as error:
            # A provider may name it at any time: that one node is unreadable, the cycle goes on.
            raise PageError(str(error)) from error

    def _of_engine(
        self, node: Node, fits: Callable[[Profile], bool], why_none: Callable[[], str]
    ) -> Profile:
        known = self._seen.get(node.id)
        if known is not None and fits(known):
            return known
        fitting = [profile for profile in self._told() if fits(profile)]
        # What was made from another profile has its names too, and is the one that is meant.
        extended = {profile.extends for profile in fitting}
        fitting = [profile for profile in fitting if profile.name not in extended]
        if len(fitting) != 1:
            raise PageError(self._several(fitting) if fitting else why_none())
        if len(self._seen) >= REMEMBERED_MAX:
            self._seen.clear()
        self._seen[node.id] = fitting[0]
        return fitting[0]

    def _several(self, fitting: Iterable[Profile]) -> str:
        names = " and ".join(profile.name for profile in fitting)
        return (
            f"the page has names of {names}: name the node's profile, or let metrics_url be that "
            f"of one engine"
        )

    def _told(self) -> list[Profile]:
        return [profile for profile in self._profiles if profile.recognised_by]

    def _all(self) -> frozenset[str]:
        """Return every name that a page of an engine that is told apart may have."""
        return frozenset(
            name for profile in self._told() for role in Role for name in profile.wanted_by(role)
        )

    def _list(self) -> str:
        return ", ".join((AUTO, *self.names))
