"""What happens to clients when their process forks or exits.

A forked child gets a fresh client, made at its first emit; what the parent had queued stays the parent's. At exit,
clients that were left open are flushed with a deadline, and what could not be delivered is logged.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import TYPE_CHECKING

from headwater_producers.metrics import DEGRADED, QUEUE_RECORDS

if TYPE_CHECKING:
    from headwater_producers.client import Client

__all__ = ["unwatch", "watch"]

_log = logging.getLogger("headwater.producers")
_clients: dict[int, Client] = {}


def watch(client: Client) -> None:
    """Look after a started client until ``unwatch``."""
    _clients[id(client)] = client
    if "multiprocessing.process" in sys.modules:
        _drain_when_a_child_ends()


def unwatch(client: Client) -> None:
    """It is closed."""
    _clients.pop(id(client), None)


def _drain_when_a_child_ends() -> None:
    """Children of multiprocessing leave by ``os._exit`` and run finalizers of their own instead of atexit's."""
    from multiprocessing import process, util

    if process.parent_process() is not None:
        util.Finalize(None, _drain_all, exitpriority=0)


def _drain_all() -> None:
    for client in tuple(_clients.values()):
        given_up = client.close(client.settings.exit_flush)
        if given_up:
            lost = ", ".join(f"{count} to {topic}" for topic, count in sorted(given_up.items()))
            _log.critical(
                "the interpreter exits and events were NOT delivered: %s. Close producers before exit "
                "(`with EventProducer...`), or raise HEADWATER_PRODUCER_EXIT_FLUSH",
                lost,
            )


def _after_fork_in_child() -> None:
    inherited = tuple(_clients.values())
    _clients.clear()
    for client in inherited:
        client.after_fork()


def _pending() -> int:
    return sum(len(client) for client in tuple(_clients.values()))


def _degraded() -> int:
    return sum(client.degraded() for client in tuple(_clients.values()))


atexit.register(_drain_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
QUEUE_RECORDS.set_function(_pending)
DEGRADED.set_function(_degraded)
