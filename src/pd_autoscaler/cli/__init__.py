"""The command line: one module per family of commands, each imported for its options alone.

What a command needs (HTTP, YAML, tables) is imported inside it, so that `--help` and completion
stay quick.
"""

import os
import sys
from typing import Annotated

import typer

from pd_autoscaler import __version__
from pd_autoscaler.cli import (
    check,
    cluster,
    control,
    doctor,
    inspect,
    profile,
    replay,
    run,
    simulate,
    tune,
)
from pd_autoscaler.cli.console import plain
from pd_autoscaler.errors import ConfigError, PdAutoscalerError

EXIT_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 130

EPILOG = (
    "Exit codes: 0 done; 1 failed, or no daemon answered; "
    "2 wrong input (an option, a value, a settings file): one sentence on stderr says which."
)

app = typer.Typer(
    name="pd-autoscaler",
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: the same on every terminal and in every pipe.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pd-autoscaler {__version__}")
        raise typer.Exit


@app.callback(epilog=EPILOG)
def _root(
    _version_asked: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Keep a prompt/decoder-disaggregated LLM service at the right prompt:decoder ratio."""


# In the order in which --help lists them. A family is a module with `register(app)`.
for _family in (run, cluster, inspect, control, check, doctor, simulate, replay, tune, profile):
    _family.register(app)


def main() -> None:
    """Run the command line and end the process with a documented exit code."""
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: list[str]) -> int:
    """Run one command and return its exit code; what went wrong is one sentence on stderr."""
    try:
        # Nothing asked: the list of commands is the answer.
        code = app(args=arguments or ["--help"], prog_name="pd-autoscaler", standalone_mode=False)
    except typer.TyperException as error:
        return _failed(f"{error.format_message()} ('--help' lists what there is)", EXIT_WRONG_INPUT)
    except ConfigError as error:
        return _failed(str(error), EXIT_WRONG_INPUT)
    except PdAutoscalerError as error:
        return _failed(str(error), EXIT_FAILED)
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone (`| head`); what is left of it must not be an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return code if isinstance(code, int) else 0


def _failed(sentences: str, code: int) -> int:
    for sentence in sentences.splitlines():
        typer.echo(f"error: {plain(sentence)}", err=True)
    return code
