"""Real traces and profiles beside the project, which it does not ship."""

from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[3] / "shared" / "data"


def real_data(name: str) -> Path:
    """Return the path of a real file, or skip the test by the file's name."""
    path = _FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return path
