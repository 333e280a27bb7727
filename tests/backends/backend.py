"""What a test backend is, and which one a run uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from backends.containers import Containers, images_at_hand
from backends.external import External
from headwater_ops.stack import Endpoints, Service, Stack
from headwater_schemas.errors import SettingError
from headwater_schemas.settings import Environment

__all__ = ["Backend", "chosen"]


class Backend(Protocol):
    """Servers for tests. Whoever makes one also ends it."""

    def up(self, *services: Service) -> Endpoints:
        """Block until these services serve; only their addresses are to be used."""
        ...


class Embedded:
    """The embedded stack; who made the stack stops it."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def up(self, *services: Service) -> Endpoints:
        return self._stack.up(*services)


@contextmanager
def chosen(stack: Callable[[], Stack]) -> Iterator[Backend]:
    """The backend that ``HEADWATER_TEST_BACKEND`` names; ``stack`` is called when it is the embedded one.

    Raises:
        SettingError: it names none.
    """
    match Environment().get("HEADWATER_TEST_BACKEND") or ("containers" if images_at_hand() else "embedded"):
        case "embedded":
            yield Embedded(stack())
        case "containers":
            with Containers() as containers:
                yield containers
        case "external":
            yield External()
        case other:
            raise SettingError(f"HEADWATER_TEST_BACKEND={other!r}: pass embedded, containers or external")
