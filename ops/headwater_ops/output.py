"""How commands print: a table for people, or JSON for programs (``--json`` on every read)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

__all__ = ["AsJson", "print_json", "print_table"]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""The ``--json`` option; declare it as ``as_json: AsJson = False``."""


def print_json(value: object) -> None:
    """One JSON document on stdout; msgspec encodes dataclasses, structs and the usual types."""
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; ``None`` is printed as a dash. Wide cells fold, nothing is cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text("-" if cell is None else str(cell), overflow="fold") for cell in row))
    Console().print(table)
