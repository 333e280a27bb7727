"""The ``headwater`` command.

Each verb is a file in ``commands/``: ``commands/lag.py`` is ``headwater lag``. The file holds either one function named
``command`` or, for a verb with verbs of its own, a ``typer.Typer`` named ``app``. Nothing else registers it. Only the
verb that is called is imported, and its file imports what is heavy inside its functions, so the command starts fast.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated

import typer

from headwater_ops import commands
from headwater_schemas.errors import HeadwaterError, UsageError

__all__ = ["main"]


@dataclass(slots=True)
class _Options:
    debug: bool = False


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted.

    An error of ours is one line on stderr; ``--debug`` adds where it came from.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    options = _Options()
    app = _build(_wanted(arguments), options)
    try:
        app(args=arguments, prog_name="headwater")
    except HeadwaterError as exc:
        if options.debug:
            traceback.print_exc()
        typer.echo(f"headwater: {exc}", err=True)
        sys.exit(2 if isinstance(exc, UsageError) else 1)


def _wanted(arguments: Sequence[str]) -> Iterable[str]:
    """The verb that is called; every verb when that is not clear (help, shell completion, a typing mistake)."""
    verbs = [module.name for module in iter_modules(commands.__path__)]
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    return [called] if called in verbs else verbs


def _build(verbs: Iterable[str], options: _Options) -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Event streaming for Python services.")

    @app.callback()
    def root(
        debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
        ] = False,
    ) -> None:
        options.debug = debug

    for verb in verbs:
        module = import_module(f"{commands.__name__}.{verb}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=verb)
        else:
            app.command(verb)(module.command)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"headwater {version('headwater-ops')}")
        raise typer.Exit


if __name__ == "__main__":
    main()
