"""Writes the tables of parameters in policies.md from the policies' own words.

python docs/parameters.py
"""

import ast
import inspect
import json
import re
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

from pd_autoscaler.policies.contract import Params
from pd_autoscaler.policies.registry import load_spec

PAGE = Path(__file__).with_name("policies.md")

_TABLE = re.compile(
    r"(?P<head>^### `(?P<name>[a-z-]+)`\n\n\| parameter \| default \| \|\n\|---\|---\|---\|\n)"
    r"(?:\|.*\n)*",
    re.MULTILINE,
)


def rewritten(page: str) -> str:
    """Return the page with the rows of each policy's table as its parameters are now."""
    return _TABLE.sub(lambda found: found["head"] + _rows(load_spec(found["name"]).params), page)


def _rows(params: type[Params]) -> str:
    told = _told(params)
    defaults = params().model_dump(mode="json")
    return "".join(
        f"| `{name}` | `{json.dumps(default)}` | {told[name]} |\n"
        for name, default in defaults.items()
    )


def _told(params: type[Params]) -> dict[str, str]:
    """Return the text below each field, in one line."""
    [parsed] = ast.parse(dedent(inspect.getsource(params))).body
    assert isinstance(parsed, ast.ClassDef)  # noqa: S101  # It is the source of a class.
    told = {}
    for field, text in pairwise(parsed.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            words = ast.literal_eval(text.value)
            told[ast.unparse(field.target)] = " ".join(str(words).split())
    return told


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
