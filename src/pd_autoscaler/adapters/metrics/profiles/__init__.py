"""Engine profiles: those shipped, those of files, and the book that chooses among them."""

from pd_autoscaler.adapters.metrics.profiles.book import AUTO, ProfileBook
from pd_autoscaler.adapters.metrics.profiles.custom import loaded
from pd_autoscaler.adapters.metrics.profiles.mindie import MINDIE
from pd_autoscaler.adapters.metrics.profiles.profile import Profile
from pd_autoscaler.adapters.metrics.profiles.sglang import SGLANG
from pd_autoscaler.adapters.metrics.profiles.vllm import VLLM

__all__ = ["AUTO", "Profile", "ProfileBook", "loaded", "shipped_profiles"]


def shipped_profiles() -> tuple[Profile, ...]:
    """Return the profiles that come with the package."""
    return (VLLM, SGLANG, MINDIE)
