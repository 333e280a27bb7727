"""A handler as a Faust agent: Faust names it, lists it, starts and supervises it; whole fetches are its stream's items.

The channel's queue has a flow control of its own. The app's empties its queues at each of Faust's rebalances, and what
is emptied here would be a hole in what is settled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from faust import Channel
from faust.types import TP, StreamT
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from headwater_streams.handlers.message import Message

__all__ = ["BatchChannel", "agent_body"]

Fetch = list[tuple[TP, list[Message]]]
"""What one fetch brought, by partition: one item, since Faust's stream sleeps a step of the loop after each."""


class Fed(Protocol):
    """Who takes batches."""

    def feed(self, tp: TP, messages: list[Message]) -> None: ...


class BatchChannel(Channel[Fetch]):
    """One agent's channel of fetches. ``hand_over`` returns when the agent has taken one."""

    def __init__(self, app: Any) -> None:
        super().__init__(app, queue=ThrowableQueue(flow_control=FlowControlEvent(initially_suspended=False)))
        self._taken = asyncio.Event()

    def clone(self, **_: Any) -> BatchChannel:
        return self

    def __aiter__(self) -> BatchChannel:
        return self

    async def __anext__(self) -> Any:  # Faust types what a stream yields as events; ours are fetches
        return await self.queue.get()

    async def hand_over(self, fetch: Fetch) -> None:
        """Give the agent this fetch and wait until it has taken it; it does so in its next step."""
        self.queue.put_nowait(fetch)
        while not self.queue.empty():
            self._taken.clear()
            await self._taken.wait()

    def took(self) -> None:
        """The agent has taken a fetch."""
        if self.queue.empty():
            self._taken.set()


def agent_body(
    channel: BatchChannel, runner: Callable[[], Fed]
) -> Callable[[StreamT[Fetch]], Coroutine[Any, Any, None]]:
    """The agent's function: everything that matters is the runner's."""

    async def feed(stream: StreamT[Fetch]) -> None:
        async for fetch in stream:
            for tp, messages in fetch:
                runner().feed(tp, messages)
            channel.took()

    return feed
