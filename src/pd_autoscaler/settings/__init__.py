"""Every setting with its unit and bounds; the only reader of the environment and of files.

`load` takes a YAML file, then environment variables over it: `PD_AUTOSCALER_LOOP__PERIOD_S=5` is
`loop.period_s`. Whatever is wrong is a ConfigError with one sentence per problem.
"""

from pd_autoscaler.settings.reading import load
from pd_autoscaler.settings.relations import ADVISED
from pd_autoscaler.settings.sections import (
    AdminSettings,
    AdvisorSettings,
    AgentSettings,
    GuardSettings,
    JournalSettings,
    LinkSettings,
    LogSettings,
    LoopSettings,
    NodeSettings,
    ProviderSettings,
    RouterSettings,
    ScrapeSettings,
    Section,
    ShadowSettings,
    StaticNode,
)
from pd_autoscaler.settings.tree import Settings

__all__ = [
    "ADVISED",
    "AdminSettings",
    "AdvisorSettings",
    "AgentSettings",
    "GuardSettings",
    "JournalSettings",
    "LinkSettings",
    "LogSettings",
    "LoopSettings",
    "NodeSettings",
    "ProviderSettings",
    "RouterSettings",
    "ScrapeSettings",
    "Section",
    "Settings",
    "ShadowSettings",
    "StaticNode",
    "load",
]
