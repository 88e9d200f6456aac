"""Engine profiles by name."""

from collections.abc import Mapping
from types import MappingProxyType

from pd_autoscaler.adapters.metrics.profiles.profile import Profile
from pd_autoscaler.adapters.metrics.profiles.vllm import VLLM
from pd_autoscaler.errors import ConfigError

PROFILES: Mapping[str, Profile] = MappingProxyType({VLLM.name: VLLM})


def profile_named(name: str) -> Profile:
    """Return a shipped profile, or raise ConfigError listing those there are."""
    if name not in PROFILES:
        raise ConfigError(f"no engine profile {name!r}; there are: {', '.join(sorted(PROFILES))}")
    return PROFILES[name]
