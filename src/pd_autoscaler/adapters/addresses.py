"""Addresses as they may be told to anybody."""

from urllib.parse import urlsplit, urlunsplit


def shown(url: str) -> str:
    """Return a URL without its user and password; those of its query are not looked at."""
    if "@" not in url:
        return url
    try:
        parts = urlsplit(url)
        # Of "user:pass/word@host" what is before the slash is no port, and raises.
        is_whole = parts.port is not None or bool(parts.netloc) or url.startswith("/")
    except ValueError:
        is_whole = False
    if not is_whole:
        # Of what is no address nothing may be told that stands where a password would.
        before, _, after = url.rpartition("@")
        scheme, slashes, _ = before.partition("//")
        return f"{scheme}//{after}" if slashes else after
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
