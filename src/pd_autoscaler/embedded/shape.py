"""The shape of a cluster's nodes: how many ranks, how those pair, and whether they need links."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pd_autoscaler.core.ranks import RankMapping, rank_pairs
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role

RANKS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What all nodes of a cluster have in common; `ranks` is how many a node starts with by role.

    Raises ConfigError for counts that this mapping cannot pair.
    """

    ranks: Mapping[Role, int] = field(default_factory=lambda: dict.fromkeys(Role, 1))
    mapping: RankMapping = RankMapping.MODULO
    is_self_connecting: bool = False

    def __post_init__(self) -> None:
        decoder, prompt = self.ranks[Role.DECODER], self.ranks[Role.PROMPT]
        if not rank_pairs(self.mapping, decoder, prompt):
            raise ConfigError(
                f"--rank-mapping {self.mapping} pairs no {prompt} ranks of a prompt node with "
                f"{decoder} of a decoder: give equal --ranks, or --rank-mapping modulo"
            )

    def node_arguments(self) -> tuple[str, ...]:
        """Return the arguments of every node; how many ranks it has is its supervisor's to say."""
        mapping = () if self.mapping is RankMapping.MODULO else ("--rank-mapping", self.mapping)
        return (*mapping, *(("--self-connecting",) if self.is_self_connecting else ()))

    def links(self) -> dict[str, str]:
        """Return the controller's `links` settings that are not their defaults."""
        mapping = {} if self.mapping is RankMapping.MODULO else {"ranks": self.mapping.value}
        return {**mapping, **({"linker": "none"} if self.is_self_connecting else {})}


def shape_of(ranks: str, mapping: str, *, is_self_connecting: bool = False) -> Shape:
    """Read a shape from the command line; raises ConfigError for what makes no sense."""
    counts = counts_of("--ranks", ranks)
    for role, count in counts.items():
        if not 1 <= count <= RANKS_MAX:
            raise ConfigError(f"--ranks {ranks!r}: give a {role} 1 to {RANKS_MAX}")
    if mapping not in set(RankMapping):
        raise ConfigError(f"--rank-mapping {mapping!r}: give {', '.join(RankMapping)}")
    return Shape(
        ranks={role: counts.get(role, 1) for role in Role},
        mapping=RankMapping(mapping),
        is_self_connecting=is_self_connecting,
    )


def counts_of(option: str, text: str) -> Mapping[Role, int]:
    """Read counts such as `prompt=1,decoder=2`; raises ConfigError for anything else."""
    counts: dict[Role, int] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        role = name.strip()
        if role not in set(Role) or role in counts or not number.strip().isdecimal():
            raise ConfigError(f"{option} {text!r}: write counts such as prompt=1,decoder=1")
        counts[Role(role)] = int(number)
    return counts
