"""What a runner takes of a fetch."""

from __future__ import annotations

from faust.types import TP

from headwater_streams.handlers.fences import Fences
from headwater_streams.handlers.message import Message

__all__ = ["take_new"]


def take_new(
    handler: str, tp: TP, messages: list[Message], positions: dict[TP, int], fences: Fences | None
) -> list[Message]:
    """The records of one fetch that the handler has not had yet, maybe none; the position moves behind them all.

    Args:
        positions: the offset after the last record that was taken, by partition.
        fences: of the partition; ``None`` when it left on the way here, then nothing is taken.
    """
    if fences is None:
        return []
    expected = positions.get(tp, 0)
    if messages[0].offset() < expected:  # fetched twice, around a pause
        messages = [message for message in messages if message.offset() >= expected]
        if not messages:
            return []
    positions[tp] = messages[-1].offset() + 1
    done = fences.done_of(handler, tp) if fences.done else None
    return messages if done is None else [message for message in messages if message.offset() not in done]
