"""Time windows: parts of a week, and what they allow each role.

A week is counted from Unix seconds alone: 1 January 1970 was a Thursday, and a day has 86400 of
them. Local time is a fixed distance from UTC; clocks that change in summer need two schedules.
"""

import math
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from pd_autoscaler.model.node import Role
from pd_autoscaler.policies.contract import Params

DAY_MIN = 24 * 60
_EPOCH_WEEKDAY = 3


class Day(StrEnum):
    """A day of the week."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


WEEK = tuple(Day)

ClockTime = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$|^24:00$")]
"""Hours and minutes of a day, such as 08:30; 24:00 is its end."""


class Window(Params):
    """A part of the week, and the counts that it allows; null leaves a bound to the other policy.

    One that ends at or before it begins goes on to that time of the next day: `days` are those on
    which it begins.
    """

    name: str = Field(min_length=1)
    """How it is called where a decision is explained."""
    days: tuple[Day, ...] = Field(default=WEEK, min_length=1)
    """Days on which it begins: mon, tue, wed, thu, fri, sat, sun."""
    begins: ClockTime = "00:00"
    """Time of day at which it begins, HH:MM."""
    ends: ClockTime = "24:00"
    """Time of day at which it ends, HH:MM; that minute is no part of it."""
    prompt: int | None = Field(default=None, ge=0)
    """Exactly so many prompt nodes."""
    prompt_min: int | None = Field(default=None, ge=0)
    """No fewer prompt nodes."""
    prompt_max: int | None = Field(default=None, ge=0)
    """No more prompt nodes."""
    decoder: int | None = Field(default=None, ge=0)
    """Exactly so many decoders."""
    decoder_min: int | None = Field(default=None, ge=0)
    """No fewer decoders."""
    decoder_max: int | None = Field(default=None, ge=0)
    """No more decoders."""

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        for role in Role:
            exact, least, most = self._said(role)
            if exact is not None and (least is not None or most is not None):
                raise ValueError(
                    f"window {self.name!r}: {role} says exactly how many; {role}_min and "
                    f"{role}_max must be left out"
                )
            if least is not None and most is not None and least > most:
                raise ValueError(
                    f"window {self.name!r}: {role}_min ({least}) must not be above {role}_max "
                    f"({most})"
                )
        if self.begins == "24:00":
            raise ValueError(f"window {self.name!r}: begins must be below 24:00")
        return self

    def holds(self, day: int, minute: int) -> bool:
        """Whether this minute of this day of the week (0 is Monday) lies in the window."""
        begins, ends = _minutes(self.begins), _minutes(self.ends)
        if begins < ends:
            return WEEK[day] in self.days and begins <= minute < ends
        before = WEEK[(day - 1) % len(WEEK)]
        began_today = WEEK[day] in self.days and minute >= begins
        return began_today or (before in self.days and minute < ends)

    def allowed(self, role: Role, count: int) -> int:
        """Return the count that the window allows, nearest to this one."""
        exact, least, most = self._said(role)
        if exact is not None:
            return exact
        floored = count if least is None else max(count, least)
        return floored if most is None else min(floored, most)

    def __str__(self) -> str:
        parts = [_bound_told(role, *self._said(role)) for role in Role]
        when = f"{_days_told(self.days)} {self.begins}-{self.ends}"
        return f"window {self.name!r} ({when}: {', '.join(filter(None, parts)) or 'no bounds'})"

    def _said(self, role: Role) -> tuple[int | None, int | None, int | None]:
        if role is Role.PROMPT:
            return self.prompt, self.prompt_min, self.prompt_max
        return self.decoder, self.decoder_min, self.decoder_max


def time_of_week(unix_s: float, *, utc_offset_min: int) -> tuple[int, int]:
    """Return the day of the week (0 is Monday) and the minute of the day."""
    minutes = math.floor(unix_s / 60) + utc_offset_min
    return (minutes // DAY_MIN + _EPOCH_WEEKDAY) % len(WEEK), minutes % DAY_MIN


def shown(day: int, minute: int) -> str:
    """Return a time of the week in words, such as `mon 08:30`."""
    return f"{WEEK[day]} {minute // 60:02}:{minute % 60:02}"


def _minutes(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)


def _days_told(days: tuple[Day, ...]) -> str:
    kept = [day for day in WEEK if day in days]
    return "daily" if len(kept) == len(WEEK) else ",".join(kept)


def _bound_told(role: Role, exact: int | None, least: int | None, most: int | None) -> str:
    if exact is not None:
        return f"{exact} {role}"
    if least is not None and most is not None:
        return f"{least} to {most} {role}"
    if least is not None:
        return f"at least {least} {role}"
    return f"at most {most} {role}" if most is not None else ""
