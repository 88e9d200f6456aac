"""The parts of a page that may have wanted lines, by its comments and without reading the rest."""

import re
from collections.abc import Iterable, Iterator

FAMILIES_MAX = 10_000
"""Families that are remembered."""

_FAMILY_MAX_BYTES = 1024
_BLOCK_MAX_BYTES = 1 << 18
_NEWLINE = 10
_ON_FAMILIES = frozenset({b"# HELP ", b"# TYPE ", b"# UNIT "})
_FAMILY = re.compile(rb"[^ \t\n{]+")
_EOF = re.compile(rb"^# EOF\r?$", re.MULTILINE)


class Passable(dict[bytes, bool]):
    """Whether no wanted name begins as a family does; remembered for at most FAMILIES_MAX.

    False also for what is no family's name, such as the empty one of lines without a comment.
    """

    def __init__(self, wanted: Iterable[bytes]) -> None:
        super().__init__()
        self._begun = {name[:end] for name in wanted for end in range(len(name) + 1)}

    def __missing__(self, family: bytes) -> bool:
        is_passable = family not in self._begun and _FAMILY.fullmatch(family) is not None
        if len(self) >= FAMILIES_MAX:
            self.clear()
        if len(family) <= _FAMILY_MAX_BYTES:
            self[family] = is_passable
        return is_passable


def lines_end(page: bytes) -> int:
    """Return where the last whole line ends, or -1 if what follows it was cut short.

    Blanks are no line, and `# EOF` is whole without a line feed.
    """
    end = page.rfind(b"\n") + 1
    return end if not page[end:].strip(b" \t\r") or _EOF.search(page) else -1


def blocks(page: bytes, passable: Passable) -> Iterator[tuple[int, int]]:
    """Yield from where to where there are lines to be read, all of them whole, up to `# EOF`.

    The lines behind a comment are passed over if it names a passable family and the first and the
    last of them are of that family: the lines of one stand together, as the format demands.
    """
    find, rfind = page.find, page.rfind
    # Where the name of the family stands that the lines from `start` on should be of; 0: nowhere.
    named = start = 0
    while (comment := find(b"#", start)) >= 0:
        if comment > start:
            if page[comment - 1] != _NEWLINE:
                # Not from sign to sign: a label may be full of them.
                comment = find(b"\n#", comment) + 1 or len(page)
            family = page[named : start - 1].split(b" ", 1)[0] if named else b""
            if not (
                passable[family]
                and page.startswith(family, start)
                and page.startswith(family, rfind(b"\n", start - 1, comment - 1) + 1)
            ):
                yield from _pieces(page, start, comment)
        start = find(b"\n", comment) + 1 or len(page)
        named = comment + 7
        if page[comment:named] not in _ON_FAMILIES:
            named = 0
            if page[comment:start].rstrip(b"\r\n") == b"# EOF":
                return
        elif page.startswith(b"# TYPE ", start):
            named = start + 7
            start = find(b"\n", start) + 1
    yield from _pieces(page, start, len(page))


def _pieces(page: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Divide many lines, so that they are not all held at once."""
    while end - start > _BLOCK_MAX_BYTES:
        middle = page.find(b"\n", start + _BLOCK_MAX_BYTES) + 1
        if not 0 < middle < end:
            break
        yield start, middle
        start = middle
    if start < end:
        yield start, end
