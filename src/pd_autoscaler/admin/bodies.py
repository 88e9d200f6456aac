"""What a command's body may hold."""

import json
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from pd_autoscaler.admin.access import RefusedError


async def body_of(request: web.Request, fields: Mapping[str, type]) -> dict[str, Any]:
    """Return the JSON object that was sent; `fields` names each key and its type, all required.

    Raises RefusedError (400) naming the key that is missing, unknown or of another type.
    """
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise RefusedError(
            400, f"{request.path} was sent a body that is not JSON: {error}"
        ) from error
    if not isinstance(body, dict):
        raise RefusedError(400, f"{request.path} takes a JSON object, not {_kind(body)}")
    wanted = ", ".join(f'"{name}" ({_KINDS[kind]})' for name, kind in fields.items()) or "no keys"
    for name in body:
        if name not in fields:
            raise RefusedError(400, f"{request.path} does not know {name!r}; it takes {wanted}")
    for name, kind in fields.items():
        if name not in body:
            raise RefusedError(400, f"{request.path} lacks {name!r}; it takes {wanted}")
        if type(body[name]) is not kind:
            raise RefusedError(
                400, f"{request.path}: {name!r} is {_kind(body[name])}, not {_KINDS[kind]}"
            )
    return body


_KINDS: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    str: "a string",
    float: "a number with a fraction",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _kind(value: object) -> str:
    return _KINDS[type(value)]
