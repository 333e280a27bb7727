"""Change events of several partitions that come in the same step of the loop go to Redis as one batch.

Two round trips of a client cost it more than the events of a small batch do, and a fetch brings some events of every
partition. Whoever has many at once gains nothing by that, so large batches stay apart and overlap in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from headwater_cache.changes import ApplyResult, Change
from headwater_cache.continuity import TopicPartition, lost
from headwater_cache.errors import ContinuityLost
from headwater_schemas.errors import Unavailable

__all__ = ["JointApply"]


class _Share:
    """What one caller has, and whether it is applied."""

    __slots__ = ("changes", "done", "positions")

    def __init__(self, changes: Sequence[Change], positions: Mapping[TopicPartition, int]) -> None:
        self.changes = changes
        self.positions = positions
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self, error: Exception | None = None) -> None:
        if self.done.done():
            return  # nobody waits any more
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class JointApply:
    """Call it with the changes and positions of one partition; it returns when they are applied.

    Batches of one partition never overlap in time, even if the caller of one gave up. What concerns one caller hits
    nobody else: who gives up takes its changes along, a batch that fails is applied share by share, unless Redis is
    away, and who has to go back is told so for its own partitions alone.

    Args:
        apply: ``EntityCache.aapply_many``.
        most: changes of one batch; a caller who has more gets one of its own.
    """

    def __init__(self, apply: Callable[..., Awaitable[list[ApplyResult]]], most: int) -> None:
        self._apply = apply
        self._most = most
        self._waiting: list[_Share] = []
        self._flights: dict[TopicPartition, asyncio.Task[None]] = {}

    async def __call__(self, changes: Sequence[Change], positions: Mapping[TopicPartition, int]) -> None:
        """Apply them.

        Raises:
            ContinuityLost: Redis has forgotten something; the rewind names no partition but those of ``positions``.
            HeadwaterError: as ``EntityCache.apply_many``; these changes are to be applied again.
        """
        while flights := {flight for at in positions if (flight := self._flights.get(at)) is not None}:
            await asyncio.wait(flights)
        share = _Share(changes, positions)
        self._board([share])
        await share.done

    def _board(self, shares: Sequence[_Share]) -> None:
        if shares and not self._waiting:
            asyncio.get_running_loop().call_soon(self._start)
        self._waiting += shares

    def _start(self) -> None:
        waiting, self._waiting = self._waiting, []
        for shares in _batches([share for share in waiting if not share.done.done()], self._most):
            flight = asyncio.ensure_future(self._fly(shares))
            for share in shares:
                self._flights.update(dict.fromkeys(share.positions, flight))
                # A partition whose caller gives up may be another worker's: its mark must not be moved any more.
                share.done.add_done_callback(lambda done, flight=flight: done.cancelled() and flight.cancel())  # type: ignore[misc]
            flight.add_done_callback(lambda flight, shares=shares: self._landed(flight, shares))  # type: ignore[misc]

    def _landed(self, flight: asyncio.Task[None], shares: Sequence[_Share]) -> None:
        for at in [at for at, known in self._flights.items() if known is flight]:
            del self._flights[at]
        if flight.cancelled():  # the others go without the one that gave up
            self._board([share for share in shares if not share.done.done()])

    async def _fly(self, shares: Sequence[_Share]) -> None:
        positions = {at: offset for share in shares for at, offset in share.positions.items()}
        try:
            await self._apply([change for share in shares for change in share.changes], positions=positions)
        except ContinuityLost as gap:
            await self._part(shares, gap)
        except Unavailable as exc:
            for share in shares:
                share.end(exc)
        except Exception as exc:
            if len(shares) == 1:
                shares[0].end(exc)
                return
            for share in shares:
                await self._fly([share])
        else:
            for share in shares:
                share.end()

    async def _part(self, shares: Sequence[_Share], gap: ContinuityLost) -> None:
        """Send back those whom it concerns. The others fly again: perhaps the loss showed before the apply."""
        concerned = [share for share in shares if share.positions.keys() & gap.rewind.positions.keys()]
        for share in concerned or shares:
            share.end(_narrowed(gap, share))
        if concerned and (others := [share for share in shares if share not in concerned]):
            await self._fly(others)


def _narrowed(gap: ContinuityLost, share: _Share) -> ContinuityLost:
    positions = {at: offset for at, offset in gap.rewind.positions.items() if at in share.positions}
    return lost(gap.rewind._replace(positions=positions))


def _batches(shares: Sequence[_Share], most: int) -> Iterator[list[_Share]]:
    batch: list[_Share] = []
    size = 0
    for share in shares:
        if batch and size + len(share.changes) > most:
            yield batch
            batch, size = [], 0
        batch.append(share)
        size += len(share.changes)
    if batch:
        yield batch
