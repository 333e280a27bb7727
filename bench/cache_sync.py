"""The cache sync: change events into Redis, and how long one takes from its emit to a reader: `make bench-cache-sync`.

    python bench/cache_sync.py [--runs 5] [--events 200000] [--rate 10000] [--seconds 10] [--json]

- *drain*: a topic full of change events (4 partitions, 10,000 keys, payloads of 160 bytes), read to its end by one
  worker process with ``sync_cache``. Its time runs from the first batch to the return of the last apply: everything
  is then in Redis and may be committed. Beside it, in turn, the same by hand and without the promises:
  ``consume(500)``, fastavro, a pipeline of SETs. Ratios are taken within a run.
- *visible* (``visible.py``): events are due at fixed times, 10,000 a second, whether anybody keeps up or not; from when
  one was due to when a reader sees it. By hand again beside it, with the same settings and without a promise, since
  both take what the machine gives. The settings are those of a user who wants a short tail: to wait some milliseconds
  for fuller requests costs the median some and saves a third of the processors' time, which then is there when many
  events wait. Virtual machines stand almost still now and then, and the p99 shows it, so a probe (``host.py``) tells
  for how much of the time, and the p99 of the samples that met no such moment stands beside.

Bars: 30,000 events a second and worker; visible p99 below 50 ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import redis

from change_events import KEYS, fill, key_of, made_topic
from headwater_cache import EntityCache
from headwater_ops.stack import Endpoints, Stack
from sync_children import child, stop
from visible import visible

BARS = {"events_per_second": 30_000, "visible_p99_ms": 50}
CONTENDERS = ("bare", "headwater")


def drain(name: str, endpoints: Endpoints, entity: str, events: int) -> dict[str, float]:
    """One contender reads the topic to its end, in a process of its own and an empty Redis."""
    with redis.Redis.from_url(endpoints.redis_url) as client:
        client.flushall()
    worker = child(name, endpoints.bootstrap, endpoints.redis_url, entity, events, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    line = worker.stdout.readline()
    stop(worker)
    if not line:
        raise SystemExit(f"{name} gave no figures")
    if name == "headwater":
        check(endpoints.redis_url, entity, events)
    figures: dict[str, float] = json.loads(line)
    return figures


def check(redis_url: str, entity: str, events: int) -> None:
    """Every key must hold its last event."""
    with EntityCache[Any](entity, redis_url, cold="miss") as view:
        for start in range(max(0, events - KEYS), events, 1000):
            numbers = range(start, min(start + 1000, events))
            found = view.get_many([key_of(number) for number in numbers])
            wrong = [number for number in numbers if found.get(key_of(number), {}).get("number") != number]
            if wrong:
                raise SystemExit(f"{len(wrong)} keys are wrong after the sync, such as that of event {wrong[0]}")


def measure(endpoints: Endpoints, options: argparse.Namespace) -> dict[str, Any]:
    """Both parts in every run; a first drain warms the broker's page cache and is thrown away."""
    entity = made_topic(endpoints.bootstrap)
    fill(endpoints.bootstrap, entity, options.events)
    drains: Runs = {name: [] for name in CONTENDERS}
    shown: Runs = {name: [] for name in CONTENDERS}
    for number in range(options.runs + 1):
        for name in CONTENDERS:
            drained = drain(name, endpoints, entity, options.events)
            tell(number, name, drained)
            if number:
                drains[name].append(drained)
        for name in CONTENDERS if number else ():
            shown[name].append(visible(name, endpoints, options.rate, options.seconds))
            tell(number, name, shown[name][-1])
    return {
        "bench": "cache-sync",
        "runs": options.runs,
        "events": options.events,
        "events_per_second": round(_median(drains["headwater"], "rate")),
        "worker_us_per_event": round(_median(drains["headwater"], "cpu_us"), 2),
        "bare_events_per_second": round(_median(drains["bare"], "rate")),
        "bare_us_per_event": round(_median(drains["bare"], "cpu_us"), 2),
        **_ratio(drains, "rate", "ratio_to_bare_loop"),
        "rate": options.rate,
        **{figure: round(_median(shown["headwater"], figure), 1) for figure in shown["headwater"][0]},
        "bare_visible_p50_ms": round(_median(shown["bare"], "visible_p50_ms"), 1),
        "bare_visible_p99_ms": round(_median(shown["bare"], "visible_p99_ms"), 1),
        "bare_steady_p99_ms": round(_median(shown["bare"], "steady_p99_ms"), 1),
        **_ratio(shown, "visible_p99_ms", "visible_p99_ratio_to_bare"),
        "bars": BARS,
    }


Runs = dict[str, list[dict[str, float]]]


def _ratio(runs: Runs, figure: str, name: str) -> dict[str, Any]:
    """Of each run; the median and the spread."""
    ratios = [ours[figure] / theirs[figure] for ours, theirs in zip(runs["headwater"], runs["bare"], strict=True)]
    spread = [round(min(ratios), 3), round(max(ratios), 3)]
    return {name: round(statistics.median(ratios), 3), f"{name}_spread": spread}


def tell(number: int, name: str, figures: dict[str, float]) -> None:
    line = ", ".join(f"{figure} {value:,.1f}" for figure, value in figures.items())
    print(f"run {number}: {name:10} {line}", file=sys.stderr, flush=True)


def _median(runs: list[dict[str, float]], figure: str) -> float:
    return statistics.median(one[figure] for one in runs)


def main() -> None:
    """Run and print; exit code 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--events", type=int, default=200_000, help="of the drain")
    parser.add_argument("--rate", type=float, default=10_000, help="events per second of the visible part")
    parser.add_argument("--seconds", type=float, default=10, help="of the visible part")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder) / "stack", ports="free") as stack:
        result = measure(stack.up("kafka", "redis"), options)
        stack.down(wipe=True)
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    slow = result["events_per_second"] < BARS["events_per_second"]
    sys.exit(1 if slow or result["visible_p99_ms"] >= BARS["visible_p99_ms"] else 0)


if __name__ == "__main__":
    main()
