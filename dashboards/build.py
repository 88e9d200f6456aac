"""Writes the dashboards beside it: `python -m dashboards.build`; a test holds them to this code."""

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import links, overview, signals

HERE = Path(__file__).parent


def files() -> dict[Path, str]:
    """Return each dashboard's file and what belongs in it."""
    encoder = JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False)
    built = {
        "links": links.dashboard(),
        "overview": overview.dashboard(),
        "signals": signals.dashboard(),
    }
    return {HERE / f"{name}.json": encoder.encode(board) + "\n" for name, board in built.items()}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
