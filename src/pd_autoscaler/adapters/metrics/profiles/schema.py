"""The schema of a profile's file, and what it says as a profile.

The shape is that of `docs/profiles.md`: short forms are written out before they are checked.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from pd_autoscaler.adapters.metrics.profiles.meaning import (
    METRIC_NAME,
    Buckets,
    Combine,
    Distribution,
    Meaning,
    Meanings,
    Ratio,
    Term,
    Value,
)
from pd_autoscaler.adapters.metrics.profiles.profile import Profile
from pd_autoscaler.model.node import Role

_T = TypeVar("_T")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def _metric_name(name: str) -> str:
    if not METRIC_NAME.fullmatch(name):
        raise ValueError("must be a metric's name: letters, digits, '_' and ':'")
    return name


def _prefix(prefix: str) -> str:
    return prefix and _metric_name(prefix)


def _listed(given: Any) -> Any:
    """Let one stand for a list of one."""
    return given if isinstance(given, list) else [given]


def _without_suffix(names: list[str]) -> list[str]:
    # Only this one: there are histograms whose own name ends in _count or _sum.
    for name in names:
        if name.endswith("_bucket"):
            raise ValueError(
                f"must be the histogram's name: {name.removesuffix('_bucket')}, without _bucket"
            )
    return names


def _not_zero(factor: float) -> float:
    if factor == 0:
        raise ValueError("must not be 0")
    return factor


_Names = Annotated[
    list[Annotated[str, AfterValidator(_metric_name)]],
    BeforeValidator(_listed),
    Field(min_length=1),
]


class TermPart(_Part):
    """A name, or names tried left to right, with labels and unit."""

    name: _Names
    labels: dict[str, str] = Field(default_factory=dict)
    combine: Annotated[Combine, Field(strict=False)] = Combine.SUM
    factor: Annotated[float, Field(strict=False), AfterValidator(_not_zero)] = 1.0
    label_product: list[str] = Field(default_factory=list)
    is_percent: bool = False
    is_optional: bool = False

    def term(self) -> Term:
        """Return what it says."""
        return Term(
            names=tuple(self.name),
            labels=self.labels,
            combine=self.combine,
            factor=self.factor,
            label_product=tuple(self.label_product),
            is_percent=self.is_percent,
            is_optional=self.is_optional,
        )


def _as_term(given: Any) -> Any:
    return {"name": given} if isinstance(given, str) else given


def _as_sum(given: Any) -> Any:
    """Write a plain name, or one term, as a sum of one."""
    given = _as_term(given)
    if not isinstance(given, Mapping) or "sum" in given:
        return given
    of_sum = ("is_lumpy", "is_sparse")
    rest = {key: value for key, value in given.items() if key not in of_sum}
    return {"sum": [rest]} | {key: given[key] for key in of_sum if key in given}


class ValuePart(_Part):
    """A sum of terms."""

    sum: list[Annotated[TermPart, BeforeValidator(_as_term)]] = Field(min_length=1)
    is_lumpy: bool = False
    is_sparse: bool = False

    def value(self) -> Value:
        """Return what it says."""
        return Value(tuple(part.term() for part in self.sum), self.is_lumpy, self.is_sparse)


_Value = Annotated[ValuePart, BeforeValidator(_as_sum)]


class HistogramPart(_Part):
    """A histogram, or two counters in its place."""

    name: Annotated[_Names, AfterValidator(_without_suffix)] | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    factor: Annotated[float, Field(strict=False, gt=0)] = 1.0
    total: _Value | None = None
    count: _Value | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "HistogramPart":
        if (self.name is None) == (self.total is None) or (self.total is None) != (
            self.count is None
        ):
            raise ValueError("must have either name, or total and count")
        return self

    def way(self) -> Buckets | Ratio:
        """Return what it says."""
        if self.total is not None and self.count is not None:
            return Ratio(self.total.value(), self.count.value())
        return Buckets(Term(names=tuple(self.name or ()), labels=self.labels, factor=self.factor))


_Values = Annotated[list[_Value], BeforeValidator(_listed), Field(min_length=1)] | None
_Histograms = (
    Annotated[
        list[Annotated[HistogramPart, BeforeValidator(_as_term)]],
        BeforeValidator(_listed),
        Field(min_length=1),
    ]
    | None
)


class MeaningsPart(_Part):
    """Canonical names and where they come from; empty takes one away."""

    gauges: dict[str, _Values] = Field(default_factory=dict)
    counters: dict[str, _Values] = Field(default_factory=dict)
    histograms: dict[str, _Histograms] = Field(default_factory=dict)

    def over(self, below: Meanings) -> Meanings:
        """Lay these over others; what is empty here is no longer read."""
        over = below | Meanings(
            gauges={
                n: Meaning(tuple(p.value() for p in ps)) for n, ps in self.gauges.items() if ps
            },
            counters={
                n: Meaning(tuple(p.value() for p in ps)) for n, ps in self.counters.items() if ps
            },
            histograms={
                n: Distribution(tuple(p.way() for p in ps))
                for n, ps in self.histograms.items()
                if ps
            },
        )
        return Meanings(
            gauges=_without_none(over.gauges, self.gauges),
            counters=_without_none(over.counters, self.counters),
            histograms=_without_none(over.histograms, self.histograms),
        )


def _without_none(given: Mapping[str, _T], said: Mapping[str, object]) -> dict[str, _T]:
    return {name: one for name, one in given.items() if said.get(name, ()) is not None}


class ProfilePart(_Part):
    """The whole file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    extends: str = ""
    prefixes: list[Annotated[str, AfterValidator(_prefix)]] | None = Field(
        default=None, min_length=1
    )
    recognised_by: list[Annotated[str, AfterValidator(_metric_name)]] = Field(default_factory=list)
    rank_labels: list[str] | None = None
    hint: str | None = None
    both: MeaningsPart = Field(default_factory=MeaningsPart)
    prompt: MeaningsPart = Field(default_factory=MeaningsPart)
    decoder: MeaningsPart = Field(default_factory=MeaningsPart)

    def profile(self, base: Profile | None) -> Profile:
        """Return what it says, over the profile it extends."""
        below = {role: Meanings() for role in Role} if base is None else base.meanings
        said = {Role.PROMPT: self.prompt, Role.DECODER: self.decoder}
        return Profile(
            name=self.name,
            extends="" if base is None else base.name,
            prefixes=self.prefixes or (("",) if base is None else base.prefixes),
            recognised_by=self.recognised_by,
            rank_labels=_either(self.rank_labels, () if base is None else base.rank_labels),
            hint=_either(self.hint, "" if base is None else base.hint),
            meanings={role: said[role].over(self.both.over(below[role])) for role in Role},
        )


def _either(given: _T | None, other: _T) -> _T:
    return other if given is None else given
