"""Drives one step of the core by hand, so that a test can stop it between any two requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from cache.resp import RespPort
from headwater_cache.steps import Ask, Batch, Call, Join, Pause, Request, Spawn, Step

T = TypeVar("T")


class Driven(Generic[T]):
    """A step under way. ``request`` is what it asks next, unanswered; ``None`` when it has ended."""

    def __init__(self, port: RespPort, step: Step[T]) -> None:
        self._port = port
        self._step = step
        self._result: T | None = None
        self.request: Request | None = None
        self._resume(lambda: next(step))

    def up_to(self, wanted: Callable[[Request], bool]) -> Driven[T]:
        """Answer requests until the next one is ``wanted``, which is not answered."""
        while self.request is not None and not wanted(self.request):
            self.answer()
        assert self.request is not None, "the step ended before that"
        return self

    def through(self, kind: type[Request]) -> Driven[T]:
        """Answer requests up to and with the first of a kind; stop before the next."""
        self.up_to(lambda request: isinstance(request, kind))
        self.answer()
        return self

    def answer(self) -> None:
        """Answer one request."""
        request = self.request
        assert request is not None
        reply = self._perform(request)
        self._resume(lambda: self._step.send(reply))

    def finish(self) -> T:
        """Answer everything; the result of the step."""
        while self.request is not None:
            self.answer()
        return self._result  # type: ignore[return-value]  # a step of Step[None] gives None

    def kill(self) -> None:
        """As kill -9 does: nothing more of it runs that could speak to Redis."""
        self._step.close()
        self.request = None

    def _perform(self, request: Request) -> Any:
        match request:
            case Ask(command):
                return self._port.ask(command)
            case Batch(commands):
                return self._port.batch(commands)
            case Call(function, args):
                return function(*args)
            case Pause():
                return None
            case Join(future):
                return future.result(10)
            case Spawn(step):
                Driven(self._port, step).finish()
                return None
        raise AssertionError(request)

    def _resume(self, resume: Callable[[], Request]) -> None:
        try:
            self.request = resume()
        except StopIteration as stop:
            self.request = None
            self._result = stop.value
