"""The page of the ``headwater`` command, from the verbs in ``headwater_ops.commands``."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import cast

import typer
from typer.cli import get_docs_for_click

from headwater_ops import commands


def command_line() -> typer.Typer:
    """Every verb of the command: a module's ``app`` is a verb with verbs, its ``command`` is a verb."""
    root = typer.Typer(help="Event streaming for Python services.", add_completion=False)
    root.callback()(lambda: None)
    for verb in sorted(module.name for module in iter_modules(commands.__path__)):
        module = import_module(f"{commands.__name__}.{verb}")
        if hasattr(module, "app"):
            root.add_typer(module.app, name=verb)
        else:
            root.command(verb)(module.command)
    return root


def command_page() -> str:
    """The page as Markdown."""
    command = typer.main.get_command(command_line())
    context = cast("typer.Context", command.make_context("headwater", [], resilient_parsing=True))
    return get_docs_for_click(obj=command, ctx=context, name="headwater", title="The headwater command")
