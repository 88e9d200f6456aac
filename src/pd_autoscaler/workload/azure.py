"""Azure's LLM inference traces (github.com/Azure/AzurePublicDataset): a CSV of wall times."""

from collections.abc import Sequence

from pd_autoscaler.workload.rows import Parser, Row, cells_of, time_in, tokens_in

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def azure_parser(names: Sequence[str]) -> Parser | None:
    """Return the parser of a CSV with Azure's columns, None for any other."""
    if any(column not in names for column in COLUMNS):
        return None
    count = len(names)
    at, given, wanted = (names.index(column) for column in COLUMNS)

    def row(text: str) -> Row:
        cells = cells_of(text, count)
        return Row(
            time_in("TIMESTAMP", cells[at].strip()),
            tokens_in("ContextTokens", cells[given].strip()),
            tokens_in("GeneratedTokens", cells[wanted].strip()),
        )

    return row
