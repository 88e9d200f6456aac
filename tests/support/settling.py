"""Waiting until a controller's fleet is where it should be."""

from tests.support.daemon import Daemon, serving


async def settled(
    running: Daemon, prompt: int, decoder: int, *, links: int | None = None
) -> set[str]:
    """Wait until exactly so many nodes of each role serve, all linked; name them.

    `links` is how many pairs are to be linked, by default all.
    """
    linked = prompt * decoder if links is None else links

    def is_so(state: dict[str, object]) -> bool:
        nodes, counts = state["nodes"], state["links"]
        assert isinstance(nodes, list)
        assert isinstance(counts, dict)
        return (
            len(serving(state, "prompt")) == prompt
            and len(serving(state, "decoder")) == decoder
            and len(nodes) == prompt + decoder
            and counts["linked"] == linked
        )

    state = await running.until(is_so, f"{prompt} prompt and {decoder} decoder nodes serve")
    return serving(state, "prompt") | serving(state, "decoder")
