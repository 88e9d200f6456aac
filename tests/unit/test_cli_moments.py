"""Moments that nobody can have meant: refused in words, not answered with a number."""

import pytest
import typer

from pd_autoscaler.cli.moments import moment_of


@pytest.mark.parametrize("text", ["99999999999999d", "-8.64e18", "-1", "1969-01-01T00:00+00:00"])
def test_a_time_before_1970_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is before 1970; give seconds since 1970"):
        moment_of(text, now_unix_s=1_785_672_000.0)
