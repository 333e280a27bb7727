"""Is the producers' spool usable, and does something wait in it?"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from headwater_ops.doctor.finding import Finding, bad, good, odd
from headwater_schemas.durations import format_duration
from headwater_schemas.settings import Environment

__all__ = ["check_spool"]

_NEARLY_FULL = 0.6


def check_spool(env: Environment) -> Iterator[Finding]:
    """Nothing to say where producers do not spool."""
    from headwater_producers import ProducerSettings, Spool

    policy = ProducerSettings.from_env(env).back_pressure
    if not isinstance(policy, Spool):
        return
    there = next(parent for parent in (policy.folder, *policy.folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield bad(
            "spool", f"{policy.folder} cannot be written", "set HEADWATER_PRODUCER_SPOOL_DIR to a folder of yours"
        )
        return
    yield from _contents(policy.folder, policy.max_bytes)
    free = shutil.disk_usage(there).free
    if free < policy.max_bytes:
        yield odd(
            "spool",
            f"{there}: {_mib(free)} free, less than HEADWATER_PRODUCER_SPOOL_BYTES ({_mib(policy.max_bytes)})",
            "free some space, or lower the limit: then emit refuses events before the disk does",
        )


def _contents(folder: Path, limit: int) -> Iterator[Finding]:
    from headwater_producers.spool import look_into

    slots = look_into(folder)
    waiting = [slot for slot in slots if slot.size]
    rejected = [slot for slot in slots if slot.rejected]
    if waiting:
        fullest = max(slot.size for slot in waiting) / limit
        since = format_duration(max(0, round(time.time() - min(slot.since for slot in waiting))))
        detail = f"{folder}: {_mib(sum(slot.size for slot in waiting))} in {len(waiting)} slots, since {since}, "
        finding = bad if fullest > _NEARLY_FULL else odd
        advice = "see that Kafka can be reached, and that a producer runs on this folder: it sends what waits"
        yield finding("spool", detail + f"the fullest at {fullest:.0%} of its limit", advice)
    if rejected:
        yield odd(
            "spool",
            ", ".join(f"{_mib(slot.rejected)} in {slot.path / 'rejected'}" for slot in rejected) + ": refused by Kafka",
            "the producer's log says why; a producer that starts there tries again",
        )
    if not waiting and not rejected:
        yield good("spool", f"{folder}: empty")


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
