"""Commands that need no daemon: is a settings file right, and which policies are there."""

from pathlib import Path
from typing import Annotated

import typer

from pd_autoscaler.cli import policies
from pd_autoscaler.cli.console import AsJson, print_json


def register(app: typer.Typer) -> None:
    """Add check-config and policies."""
    app.command("check-config")(check_config)
    policies.register(app)


def check_config(
    file: Annotated[Path, typer.Argument(help="The settings file (YAML).", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Check a settings file and show what would be used.

    Environment variables count, too, as they do for the daemon; the policy is loaded as well.
    """
    import yaml  # noqa: PLC0415  # --help must not pay for it

    from pd_autoscaler import app, settings  # noqa: PLC0415  # as above

    loaded = settings.load(file)
    app.check(loaded)
    # Secrets are dumped as asterisks.
    used = loaded.model_dump(mode="json")
    if as_json:
        print_json({"file": str(file), "settings": used})
    else:
        typer.echo(f"# {file} is right; this would be used:")
        typer.echo(yaml.safe_dump(used, sort_keys=False), nl=False)
