"""Running the controller from a settings file."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import typer

from pd_autoscaler import app, settings
from pd_autoscaler.errors import ConfigError, PdAutoscalerError
from pd_autoscaler.settings import Settings

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run(config: Path, policy: str | None) -> None:
    """Run until a signal; raises ConfigError for whatever is wrong with the settings."""
    loaded = with_policy(settings.load(config), policy)
    logging.basicConfig(level=loaded.log.level.upper(), format=LOG_FORMAT)

    async def main() -> None:
        await app.run(loaded, on_ready=lambda running: greet(running.url))

    run_async(main)


def greet(url: str) -> None:
    """Say where the controller listens; programs read the end of the first line."""
    typer.echo(f"page and API: {url}")
    typer.echo(f"in another terminal: pd-autoscaler status --url {url}")


def with_policy(loaded: Settings, policy: str | None) -> Settings:
    """Return the settings with another policy, its parameters being its defaults."""
    if policy is None or policy == loaded.loop.policy:
        return loaded
    loop = loaded.loop.model_copy(update={"policy": policy, "policy_params": {}})
    return loaded.model_copy(update={"loop": loop})


def run_async(main: Callable[[], Awaitable[None]]) -> None:
    """Run to the end; of several errors raise the one that tells a person what to do."""
    try:
        anyio.run(main)
    except BaseExceptionGroup as group:
        raise _foremost(group) from None


def _foremost(error: BaseException) -> BaseException:
    """Pick a ConfigError before any other of our own, and those before the rest."""
    errors = list(_leaves(error))
    for kind in (ConfigError, PdAutoscalerError):
        for leaf in errors:
            if isinstance(leaf, kind):
                return leaf
    return errors[0]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
