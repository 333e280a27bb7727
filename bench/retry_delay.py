"""How exact retry delays are: the time of the next attempt against the time that was asked for.

    python bench/retry_delay.py [--seconds 120] [--rate 500] [--failing 5] [--json]

One worker process handles steady traffic of 1,000 keys; ``--failing`` events per second fail. Half of these fail three
times and wait 1 s, 5 s and 10 s, each a tier of its own; the other half ask once for 7 s, which no tier has: the
engine composes it of hops (5 s, 1 s, the rest in memory). The error of a delay is the time at which the handler is
called again, less the time at which it raised and the delay; both are read in the handler. Jitter is off, as by
default. Below zero is early, whatever the amount; the bar is a 99th percentile below 250 ms and none early.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
import zlib
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from fleet import Fleet, Journal, Traffic, create_topic, quantile, say
from handler import KEYS, PARTITIONS, codec_for
from headwater_ops.stack import Stack
from headwater_ops.worker import run as run_app
from headwater_streams import EventContext, Retry, RetryLater, StreamApp

TIERS = (1.0, 5.0, 10.0)
HOPS = 7.0
BAR_MS = 250.0
FINE, IN_TIERS, IN_HOPS = 0, 1, 2  # what an order's quantity says of its fate


def worker(group: str, topic: str, journal: str) -> None:
    """Until SIGTERM: tells of each attempt of a failing order, and of the delay that it asks for."""
    codec = codec_for(topic)
    app = StreamApp(group, catalogue=codec.catalogue, codec=codec)
    tell = Journal.writer(journal)

    @app.handler(topic, name="settle", retry=Retry(*TIERS))
    async def settle(order: dict[str, Any], event: EventContext) -> None:
        fate, attempt = order["quantity"], event.attempt
        if fate == FINE:
            return
        delays = TIERS if fate == IN_TIERS else (HOPS,)
        asked = delays[attempt] if attempt < len(delays) else 0.0
        tell(f"{order['order_id']} {asked} {time.time():.6f}")
        if asked:
            raise RuntimeError("not yet") if fate == IN_TIERS else RetryLater(asked)

    run_app(app, "error")


def key_of(number: int) -> tuple[str, int]:
    """Any of the keys, so that few failing events wait behind another."""
    return f"k-{zlib.crc32(b'%d' % number) % KEYS}", -1


def errors_of(lines: list[list[str]]) -> dict[float, list[float]]:
    """By delay, the milliseconds that each attempt came after its time."""
    attempts: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for order, delay, at in lines:
        attempts[order].append((float(delay), float(at)))
    errors: dict[float, list[float]] = defaultdict(list)
    for made in attempts.values():
        for (asked, failed), (_, again) in pairwise(made):
            errors[asked].append((again - failed - asked) * 1000)
    return errors


def measure(bootstrap: str, folder: Path, options: argparse.Namespace) -> dict[float, list[float]]:
    """The errors of one run."""
    topic, group = f"orders.{uuid.uuid4().hex[:8]}", f"retry-{uuid.uuid4().hex[:8]}"
    create_topic(bootstrap, topic, PARTITIONS)
    journal = Journal(folder / "attempts")
    every = max(1, round(options.rate / options.failing))

    def fate(number: int) -> dict[str, Any]:
        place, rest = divmod(number, every)
        return {"quantity": FINE if rest else IN_TIERS if place % 2 else IN_HOPS}

    fleet = Fleet(__file__, bootstrap)
    fleet.start(group, topic, str(folder / "attempts"))
    try:
        traffic = Traffic(bootstrap, topic, options.rate, key_of, fate)
        with traffic.flowing():
            for number in range(round(options.seconds)):
                time.sleep(1)
                if number % 10 == 9:
                    say(f"{number + 1} s: {traffic.sent:,} events sent, {len(journal.look()):,} attempts of failing")
        failing = sum(fate(number)["quantity"] != FINE for number in range(traffic.sent))
        last = 60 + sum(TIERS)
        journal.wait(lambda told: sum(line[1] == "0.0" for line in told) >= failing, last, "every failing event done")
    finally:
        fleet.close()
    return errors_of(journal.lines)


def summary(errors: dict[float, list[float]], options: argparse.Namespace) -> dict[str, Any]:
    """Per delay and over all."""
    every = [error for found in errors.values() for error in found]
    p99 = quantile(every, 0.99)
    early = sum(error < 0 for error in every)
    return {
        "bench": "retry",
        "rate": options.rate,
        "delays": {
            f"{delay:g}s": {
                "retries": len(found),
                "error_p50_ms": round(quantile(found, 0.5), 2),
                "error_p99_ms": round(quantile(found, 0.99), 2),
                "error_max_ms": round(max(found), 2),
                "error_min_ms": round(min(found), 2),
                "early": sum(error < 0 for error in found),
            }
            for delay, found in sorted(errors.items())
        },
        "retries": len(every),
        "error_p50_ms": round(quantile(every, 0.5), 2),
        "error_p99_ms": round(p99, 2),
        "error_max_ms": round(max(every), 2),
        "early": early,
        "passed": p99 < BAR_MS and not early,
    }


def main() -> None:
    if "--child" in sys.argv:
        worker(*sys.argv[sys.argv.index("--child") + 1 :])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="of traffic (default 120)")
    parser.add_argument("--rate", type=float, default=500, help="events per second (default 500)")
    parser.add_argument("--failing", type=float, default=5, help="of them, failing per second (default 5)")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder) / "stack", ports="free") as stack:
        result = summary(measure(stack.up("kafka").bootstrap, Path(folder), options), options)
        stack.down(wipe=True)
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
