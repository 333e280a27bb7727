"""Filling a view anew from its change topic, read from outside any group."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from headwater_cache import (
    Change,
    EntityCache,
    MsgpackValues,
    Position,
    RedisSettings,
    TopicPartition,
    log_version,
)
from headwater_cache.events import ChangeDecoder
from headwater_cache.space import EPOCH_CHECK_SECONDS
from headwater_schemas.codec import Codec
from headwater_schemas.errors import BadRecord
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_schemas.wire import change_topic
from headwater_streams.transport.log import Log
from headwater_streams.transport.topics import tombstone_seconds

if TYPE_CHECKING:
    from faust.types import TP
    from rich.progress import Progress

__all__ = ["warm_view"]

_log = logging.getLogger(__name__)
_BATCH = 500
_GRACE = EPOCH_CHECK_SECONDS + 1.0  # seconds: by then every process has left the retired epoch
_CLOSE = 1000  # records behind the end at which the new epoch may go live: the sync replays them


def warm_view(
    env: Environment,
    entity: str,
    topic: str | None,
    *,
    topic_epoch: int,
    rate: int,
    swap: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[int, int]:
    """Fill the next epoch of a view to the end of its log, and make it live. The epoch, and how many changes it took.

    Goes on where an earlier call stopped. Blocks, with a progress bar. The retired epoch is deleted a few seconds after
    the swap: until then some process may still read it.

    Args:
        sleep: waits so many seconds for that.

    Raises:
        UnknownTopic: there is no such change topic.
        Unavailable: a server does not answer; call again.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    log, settings = Log(KafkaSettings.from_env(env)), RedisSettings.from_env(env)
    partitions = log.partitions(topic or change_topic(entity))
    codec = Codec.from_env(env)
    decoder = ChangeDecoder(MsgpackValues[Any](), codec.decoder(), epoch=topic_epoch)
    with EntityCache[Any](entity, settings) as live:
        retired = live.live_epoch()
    columns = (TextColumn(f"{entity}, epoch {retired + 1}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    applied, began = 0, time.monotonic()
    try:
        with EntityCache[Any](entity, settings, epoch=retired + 1) as fresh, Progress(*columns) as progress:
            while True:
                ends = log.ends(partitions, committed=True)
                count = _fill(fresh, log, decoder, topic_epoch, ends, rate, progress)
                applied += count
                if count <= _CLOSE:
                    break
            fresh.mark_ready(positions=_positions(ends), total=len(partitions))
            _warn_of_tombstones(entity, time.monotonic() - began, tombstone_seconds(log.admin, partitions[0].topic))
            if swap:
                fresh.go_live()
                sleep(_GRACE)
                fresh.drop_epoch(retired)
    finally:
        codec.close()
    return retired + 1, applied


def _warn_of_tombstones(entity: str, took: float, kept: float) -> None:
    if took > kept / 2:
        _log.warning(
            "%s: filling it took %.1f h, and deletions vanish from its topic after %.1f h: raise delete.retention.ms "
            "or --rate, before keys that were deleted meanwhile come back",
            entity,
            took / 3600,
            kept / 3600,
        )


def _fill(
    cache: EntityCache[Any],
    log: Log,
    decoder: ChangeDecoder,
    topic_epoch: int,
    ends: Mapping[TP, int],
    rate: int,
    progress: Progress,
) -> int:
    """Apply everything up to ``ends`` that the cache does not have yet; how many records that were."""
    rewind = cache.check_continuity(_positions(ends))
    starts = {TopicPartition(*tp): at for tp, at in log.starts(ends.keys()).items()}
    behind = rewind.positions if rewind is not None else {}
    spans = {
        tp: (max(behind.get(TopicPartition(*tp), end), starts[TopicPartition(*tp)]), end) for tp, end in ends.items()
    }
    bar = progress.add_task("", total=sum(end - start for start, end in spans.values()))
    count = 0
    for batch in _batches(log.read(spans)):
        began = time.monotonic()
        at = {TopicPartition(message.topic(), message.partition()): message.offset() + 1 for message in batch}
        cache.apply_many(list(_changes(cache, decoder, topic_epoch, batch)), positions=at)
        count += len(batch)
        progress.update(bar, completed=count)
        time.sleep(max(0.0, len(batch) / rate - (time.monotonic() - began)))
    cache.apply_many([], positions=_positions(ends))  # what compaction or transactions left without a record
    progress.update(bar, completed=sum(end - start for start, end in spans.values()))
    return count


def _changes(cache: EntityCache[Any], decoder: ChangeDecoder, epoch: int, batch: Iterable[Any]) -> Iterator[Change]:
    """The changes of a batch. One that can not be read fences its key: nothing older than it may be served."""
    for message in batch:
        try:
            change = decoder.decode(message.key(), message.value(), _place(message))
        except BadRecord as exc:
            _log.warning("%s: %s[%d] at %d: %s", cache.name, *_place(message), exc)
            if message.key() is not None:
                cache.fence(message.key().decode(errors="replace"), log_version(epoch, message.offset()))
            continue
        if change is not None:
            yield change


def _place(message: Any) -> Position:
    return Position(message.topic(), message.partition(), message.offset())


def _positions(ends: Mapping[TP, int]) -> dict[TopicPartition, int]:
    return {TopicPartition(*tp): end for tp, end in ends.items()}


def _batches(messages: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(messages)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
