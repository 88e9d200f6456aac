"""Commands that tell the running daemon what to do."""

from typing import Annotated

import typer

from pd_autoscaler.cli.console import DEFAULT_URL, AsJson, Json, Token, Url, ask, plain, print_json


def register(app: typer.Typer) -> None:
    """Add pause, resume, scale and drain."""
    app.command()(pause)
    app.command()(resume)
    app.command()(scale)
    app.command()(drain)


def pause(
    everything: Annotated[
        bool, typer.Option("--all", help="Take no action at all, not even repairs.")
    ] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Keep the target as it is until resume.

    Links are still repaired and lost nodes replaced, unless --all is given.
    """
    answer = ask(url, token, lambda daemon: daemon.pause(everything=everything))
    what = "no action is taken at all" if everything else "the target stays, repairs go on"
    _say(answer, f"{answer.get('mode')}: {what}; 'pd-autoscaler resume' ends it", as_json=as_json)


def resume(url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Let the policy decide again after pause or scale."""
    answer = ask(url, token, lambda daemon: daemon.resume())
    _say(answer, f"{answer.get('mode')}: the policy decides again", as_json=as_json)


def scale(
    prompt: Annotated[int, typer.Option("--prompt", min=0, help="Prompt nodes wanted.")],
    decoder: Annotated[int, typer.Option("--decoder", min=0, help="Decoder nodes wanted.")],
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Set the target by hand and pause the policy."""
    answer = ask(url, token, lambda daemon: daemon.scale(prompt=prompt, decoder=decoder))
    target = f"{answer.get('prompt')}P:{answer.get('decoder')}D"
    sentence = f"target {target}; the policy is paused until 'pd-autoscaler resume'"
    _say(answer, sentence, as_json=as_json)


def drain(
    node: Annotated[str, typer.Argument(help="The node's id, as 'pd-autoscaler status' names it.")],
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Take one serving node out; its replacement comes first."""
    answer = ask(url, token, lambda daemon: daemon.drain(node))
    _say(answer, f"{node} is asked to leave; 'pd-autoscaler status' shows it", as_json=as_json)


def _say(answer: Json, sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        typer.echo(plain(sentence))
