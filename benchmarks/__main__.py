"""Run benchmarks and write what they measured: `python -m benchmarks [NAME ...]`, by default all.

`docs/benchmarks.md` gets a section for each, in place of the one it had.
"""

import argparse
import ast
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.rows import read

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
COLUMNS = ("name", "value", "unit", "reference", "ratio", "aim", "met")

_HEAD = """# Benchmarks

Written by `make bench`. The ratio is value over reference; an aim is the largest ratio that is good
enough, or the least value where there is no ratio. Figures are of one run on the machine named with
them: compare ratios, not seconds.
"""


def names() -> list[str]:
    """List the benchmarks: every module beside this one."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def command_of(name: str, options: str = "") -> str:
    """Return the command that anyone can repeat."""
    return f"python -m benchmarks.{name} --json {options}".rstrip()


def run(name: str, options: str = "") -> dict[str, Any]:
    """Run one benchmark, pass its lines on, and return the object that it ends with.

    Raises CalledProcessError or ValueError if it fails or does not end with its object.
    """
    lines: list[str] = []
    arguments = [sys.executable, *command_of(name, options).split()[1:]]
    with subprocess.Popen(arguments, cwd=HERE.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return read("".join(lines))


def machine() -> str:
    """Name what the figures depend on."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    cores = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    return f"{cores}, {python}; load average before the run {os.getloadavg()[0]:.1f}"


def section(name: str, found: Mapping[str, Any], where: str, options: str = "") -> str:
    """Return a benchmark's part of the page: what it does, in its own words, rows and tables."""
    told = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text())) or ""
    table = [
        f"| {' | '.join((*COLUMNS, 'command'))} |",
        f"|{'---|' * (len(COLUMNS) + 1)}",
        *(
            f"| {' | '.join(_cell(row[c]) for c in COLUMNS)} | `{command_of(name, options)}` |"
            for row in found["rows"]
        ),
    ]
    more = [line for other in found.get("tables", ()) for line in _table(other)]
    return "\n".join([f"## {name}", "", told, "", f"Machine: {where}.", "", *table, *more, ""])


def _table(of: Mapping[str, Any]) -> list[str]:
    return [
        "",
        f"### {of['title']}",
        "",
        of.get("note", ""),
        "",
        f"| {' | '.join(of['columns'])} |",
        f"|{'---|' * len(of['columns'])}",
        *(f"| {' | '.join(row)} |" for row in of["rows"]),
    ]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def page(before: str, sections: dict[str, str]) -> str:
    """Return the page with these sections in place of those it had of the same benchmarks."""
    kept = {part.split("\n", 1)[0]: f"## {part}" for part in before.split("\n## ")[1:]}
    parts = kept | sections
    return "\n".join([_HEAD, *(parts[name].rstrip() + "\n" for name in sorted(parts))])


def main(argv: Sequence[str] | None = None) -> None:
    """Run what was asked for; ends with status 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    parser.add_argument(
        "--options", default="", help="given to every benchmark named, such as '--seeds 3'"
    )
    args = parser.parse_args(argv)
    unknown = set(args.names) - set(names())
    if unknown:
        parser.error(f"there is no {min(unknown)}; there are: {', '.join(names())}")
    sections: dict[str, str] = {}
    failed: list[str] = []
    for name in args.names or names():
        where = machine()
        try:
            sections[name] = section(name, run(name, args.options), where, args.options)
        except (subprocess.CalledProcessError, ValueError) as error:
            failed.append(f"{name}: {error}")
    PAGE.write_text(page(PAGE.read_text() if PAGE.exists() else "", sections))
    print(f"written: {PAGE}")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
