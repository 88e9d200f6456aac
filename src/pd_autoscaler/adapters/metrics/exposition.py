"""Prometheus text and OpenMetrics: the samples that are wanted, read from the bytes of a page.

Fast where pages are alike, which is nearly always: the blocks of families that nobody wants are
passed over, and what a series' text means is looked up, not read. Each short cut proves on the
bytes that it may be taken; else lines are looked at one by one, unusual ones by `exposition_line`.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import compress
from sys import getsizeof
from typing import NamedTuple, cast

from pd_autoscaler.adapters.metrics.exposition_blocks import Passable, blocks, lines_end
from pd_autoscaler.adapters.metrics.exposition_line import NUMERIC, line_of, name_of

SERIES_MAX = 100_000
"""Texts of series that are remembered; a fleet of one model has some thousand different ones."""
SERIES_MAX_BYTES = 64_000_000
"""What they may take in memory: a text of many labels takes a hundred times what others do."""
SAMPLES_MAX = 20_000
"""Wanted samples of a page; eight engines have some hundred."""
LINES_MAX = 200_000
"""Lines of a page; those below LARGE_BYTES are not counted."""
LARGE_BYTES = 1_000_000

_TEXT_MAX_BYTES = 4096


class PageError(ValueError):
    """A page that cannot be trusted; the message says where and why."""


class Series(NamedTuple):
    """What a sample is a value of; the same text on later pages gives the same object."""

    name: str
    labels: Mapping[str, str]


Sample = tuple[Series, float]
"""One line of a page."""


def weight_of(series: Series) -> int:
    """Return about how many bytes of memory a series takes."""
    labels = series.labels
    return getsizeof(labels) + sum(map(getsizeof, labels)) + sum(map(getsizeof, labels.values()))


class PageParser:
    """Reads the samples of the wanted names, page after page, and nothing else.

    A name is that of a sample: a histogram is wanted as `…_bucket`, `…_sum` and `…_count`. What a
    series' text means is remembered, for at most SERIES_MAX of them and SERIES_MAX_BYTES.
    """

    def __init__(self, wanted: Iterable[str]) -> None:
        self._wanted = {name.encode(): name for name in wanted}
        self._passable = Passable(self._wanted)
        # By line feed and text, as they stand on a page; None is a series that is not wanted.
        self._known: dict[bytes, Series | None] = {}
        self._known_bytes = 0

    def samples(self, page: bytes) -> list[Sample]:
        """Return the wanted samples in page order; nothing behind `# EOF` counts.

        Raises PageError on a wanted line that is malformed, on a page whose last line has no end
        and is not `# EOF` (a value cut short is still a number), and on one of too many lines or
        wanted samples.
        """
        # Parsing cannot be interrupted: what a page costs must be known before.
        if len(page) > LARGE_BYTES and page.count(b"\n") > LINES_MAX:
            raise PageError(f"page of {len(page)} bytes has over {LINES_MAX} lines")
        whole = lines_end(page)
        if whole < 0:
            start = page.rfind(b"\n") + 1
            cut = f"page of {len(page)} bytes is cut short: {_shown(page[start:])}"
            raise _error(page, start, 0, cut)
        page = page[:whole]
        samples: list[Sample] = []
        for start, end in blocks(page, self._passable):
            read = self._at_once(page, start, end)
            samples += self._one_by_one(page, start, end) if read is None else read
            if len(samples) > SAMPLES_MAX:
                raise PageError(
                    f"page of {len(page)} bytes has over {SAMPLES_MAX} samples of what is read"
                )
        return samples

    def _at_once(self, page: bytes, start: int, end: int) -> list[Sample] | None:
        """Read lines that are all a known text, a blank and a number; None if they are not."""
        # The line feed goes with the text behind it: so a known text proves where its line begins.
        parts = page[start - 1 : end - 1].replace(b"\n", b" \n").split(b" ")
        values = parts[2::2]
        if not start or len(parts) % 2 == 0 or b"".join(values).translate(None, NUMERIC):
            return None
        try:
            # None, for what is not wanted, is left out together with its value.
            series = cast("list[Series]", list(map(self._known.__getitem__, parts[1::2])))
            return list(compress(zip(series, map(float, values), strict=True), series))
        except (KeyError, ValueError):
            return None

    def _one_by_one(self, page: bytes, start: int, end: int) -> list[Sample]:
        samples: list[Sample] = []
        for index, line in enumerate(page[start : end - 1].split(b"\n")):
            if not line:
                continue
            text, _, value = line.rpartition(b" ")
            series = self._known.get(b"\n" + text)
            if series is not None and not value.translate(None, NUMERIC):
                with suppress(ValueError):
                    samples.append((series, float(value)))
                    continue
            name = self._wanted.get(name_of(line))
            if name is not None:
                try:
                    samples.append(self._read(line, name))
                except ValueError as error:
                    raise _error(page, start, index, f"{error}: {_shown(line)}") from error
            elif text and b" " not in text:
                self._remember(text, None)
        return samples

    def _read(self, line: bytes, name: str) -> Sample:
        read = line_of(line)
        text = line[: read.series_end]
        series = self._known.get(b"\n" + text)
        if series is None:
            series = Series(name, read.labels)
            self._remember(text, series)
        return series, read.value

    def _remember(self, text: bytes, series: Series | None) -> None:
        known = b"\n" + text
        if len(text) > _TEXT_MAX_BYTES or known in self._known:
            return
        weight = getsizeof(known) + (0 if series is None else weight_of(series))
        if len(self._known) >= SERIES_MAX or self._known_bytes + weight > SERIES_MAX_BYTES:
            self._known.clear()
            self._known_bytes = 0
        self._known[known] = series
        self._known_bytes += weight


def _error(page: bytes, start: int, lines: int, what: str) -> PageError:
    """Name the line that is so many lines behind the beginning of another."""
    number = page.count(b"\n", 0, start) + lines + 1
    return PageError(f"line {number}: {what}")


def _shown(line: bytes) -> str:
    return repr(line[:80].decode(errors="replace"))
