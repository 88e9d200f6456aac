"""Figures and data as JSON that a page can hold inside a script element."""

import base64
import json
from typing import Any

import numpy as np

from pd_autoscaler.sim.report.panels import Figure


def script_json(figure: Figure) -> str:
    """Return a figure as JSON; series are packed as plotly.js reads them, four bytes a value.

    No text in it can end a script element or begin a comment.
    """
    text = json.dumps(figure, default=_packed, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _packed(value: object) -> dict[str, Any]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a {type(value).__name__} has no place in a figure")
    packed = np.ascontiguousarray(value, "<f4").tobytes()
    return {"dtype": "f4", "bdata": base64.b64encode(packed).decode("ascii")}
