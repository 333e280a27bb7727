"""How long a change event takes from its emit to a reader of Redis: the open-loop half of the cache sync's bench.

Events are due at fixed times whether anybody keeps up or not. A sender process emits them, a follower applies them, and
this process looks every five milliseconds whether a sample of one event in fifty shows; a sample's time runs from when
it was due.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from change_events import PARTITIONS, fill, key_of, made_topic, number_of
from fleet import quantile
from headwater_cache import EntityCache
from headwater_ops.stack import Endpoints
from headwater_schemas.partitioner import partition_for
from host import HostSpeed
from sync_children import bare_name, child, stop

__all__ = ["visible"]

EVERY = 50
LOOK = 0.005
WARM_UP = 5  # seconds: the broker compiles itself meanwhile

Look = Callable[[Sequence[str]], Sequence[int]]


@contextmanager
def _reader(contender: str, redis_url: str, entity: str) -> Iterator[Look]:
    """Tells the newest number that shows of each key; -1 = none."""
    if contender == "headwater":
        with EntityCache[Any](entity, redis_url, cold="miss") as view:

            def look(keys: Sequence[str]) -> Sequence[int]:
                found = view.get_many(keys)
                return [found[key]["number"] if key in found else -1 for key in keys]

            yield look
        return
    with redis.Redis.from_url(redis_url) as client:

        def peek(keys: Sequence[str]) -> Sequence[int]:
            found: Any = client.mget([bare_name(entity, key) for key in keys])
            return [-1 if value is None else number_of(value) for value in found]

        yield peek


def visible(contender: str, endpoints: Endpoints, rate: float, seconds: float) -> dict[str, float]:
    """Milliseconds from due to visible. The first seconds warm everything up and do not count."""
    entity = made_topic(endpoints.bootstrap)
    fill(endpoints.bootstrap, entity, PARTITIONS)
    worker = child(contender, endpoints.bootstrap, endpoints.redis_url, entity, 0)
    try:
        with _reader(contender, endpoints.redis_url, entity) as look:
            deadline = time.monotonic() + 60
            while look([key_of(0)])[0] < 0:  # it has its partitions
                if time.monotonic() > deadline:
                    raise SystemExit(f"{contender} applied nothing within a minute")
                time.sleep(0.05)
            start = time.monotonic() + 3
            with HostSpeed() as host:
                source = child(f"{contender}-sender", endpoints.bootstrap, entity, rate, seconds + WARM_UP, start)
                spans = _watch(look, start, rate, seconds + WARM_UP)
            if source.wait(30):
                raise SystemExit(f"the sender of {contender} failed")
    finally:
        stop(worker)
    times = [(seen - due) * 1000 for due, seen in spans]
    steady = [(seen - due) * 1000 for due, seen in spans if host.steady(due, seen)]
    return {
        "visible_p50_ms": quantile(times, 0.5),
        "visible_p99_ms": quantile(times, 0.99),
        "visible_max_ms": max(times),
        "samples": len(times),
        "host_slow_percent": host.slow_percent(start + WARM_UP, start + WARM_UP + seconds),
        "steady_p99_ms": quantile(steady, 0.99) if steady else math.nan,
        "steady_samples": len(steady),
    }


def _watch(look: Look, start: float, rate: float, seconds: float) -> list[tuple[float, float]]:
    """When each sample was due and when it was seen, without those of the warm-up.

    Looks at the first sample that is due of each partition alone, since they show in order: so that a look costs the
    same however late they are.
    """
    samples = deque(range(EVERY, int(rate * seconds), EVERY))
    waiting: list[deque[int]] = [deque() for _ in range(PARTITIONS)]
    found: list[tuple[float, float]] = []
    while samples or any(waiting):
        now = time.monotonic()
        while samples and now >= start + samples[0] / rate:
            number = samples.popleft()
            waiting[partition_for(key_of(number).encode(), PARTITIONS)].append(number)
        heads = [numbers[0] for numbers in waiting if numbers]
        newest = look([key_of(number) for number in heads]) if heads else []
        now = time.monotonic()
        seen = {number for number, shown in zip(heads, newest, strict=True) if shown >= number}
        found += [(start + number / rate, now) for number in seen if number >= WARM_UP * rate]
        for numbers in waiting:
            if numbers and numbers[0] in seen:
                numbers.popleft()
        if heads and now > start + seconds + 60:
            raise SystemExit(f"{len(heads)} partitions show not all a minute after the last event")
        if not seen:
            time.sleep(LOOK)
    return found
