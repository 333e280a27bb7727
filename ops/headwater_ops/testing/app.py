"""An app of yours under faults."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from headwater_ops.testing.faults import named
from headwater_ops.testing.run import FaultRun, Load
from headwater_ops.testing.servers import Servers
from headwater_ops.testing.verdict import Event, Verdict, event_of
from headwater_ops.testing.world import Launch
from headwater_schemas.codec import Codec
from headwater_schemas.durations import Duration, seconds
from headwater_schemas.settings import Environment, KafkaSettings
from headwater_schemas.wire import CE_ID
from headwater_streams.deadletters.standing import SUFFIX
from headwater_streams.transport.log import Log

__all__ = ["Faults"]


class Faults:
    """Runs an app as worker processes while faults strike, and judges it. What the fixture ``headwater_faults`` gives.

    Args:
        servers: brokers to send to, to kill, and to cut off.
        folder: where the workers' logs and the file of effects go.
        cwd: where workers run: the folder in which Python finds the app.
    """

    def __init__(self, servers: Servers, folder: Path, cwd: Path) -> None:
        self.servers = servers
        self._folder = folder
        self._cwd = cwd

    def __call__(
        self,
        app: str | Sequence[str],
        *,
        group: str,
        topic: str,
        value: Callable[[str, int], Mapping[str, Any] | bytes],
        faults: int | Sequence[str] = 3,
        seed: int = 1,
        workers: int = 2,
        events: int = 2000,
        keys: int = 40,
        rate: float = 300.0,
        quiet: Duration = "30s",
        env: Mapping[str, str] | None = None,
    ) -> Verdict:
        """Start the workers, send, strike, wait until everything has settled, and judge. Blocks for all of it.

        The handler calls ``note_effect(event.id)`` (``headwater_streams.testing.effects``) when its effect has
        happened; what it never notes, and what is no dead letter either, is lost. At least once allows duplicates, so
        a verdict passes with them. A pass is evidence, not proof: try more seeds.

        Args:
            app: ``MODULE:APP``, run by ``headwater worker``, or a command. It finds the servers in ``HEADWATER_*``
                variables; its client id must be ``HEADWATER_WORKER_ID`` (a ``StreamApp``'s is), by which a takeover of
                its partitions is seen.
            group: the app's consumer group. It must begin at the earliest offset, as a ``StreamApp`` does.
            topic: what it reads; made with four partitions when it is not there.
            value: the value of the event ``number`` (from 0 on) of ``key``; a dict is encoded by the catalogue of
                ``HEADWATER_CONTRACTS``, bytes are sent as they are.
            faults: names, which strike one after another, or how many are drawn by the seed.
            events: at least so many are sent; sending goes on until the faults are over.
            rate: events per second.
            quiet: how long nothing new happens before the rest counts as lost: more than a retry waits, and than a
                group takes to give partitions to others.
            env: further variables of the workers.

        Raises:
            UsageError: there is no fault of a name, or the servers cannot have it.
            NoEffect: the workers ended, or did nothing for three minutes; the error says where their logs are.
        """
        run = uuid.uuid4().hex[:6]  # the same topic and group may be used again: the events are other ones
        settings = {**self.servers.endpoints.settings(), **(env or {})}
        workers_only = {"HEADWATER_WORKER_HTTP": "127.0.0.1:0"}
        command = [sys.executable, "-m", "headwater_ops.cli", "worker", app] if isinstance(app, str) else app
        with closing(Codec.from_env(Environment(settings))) as codec:
            return FaultRun(
                seed,
                Launch(command, self._folder, self._cwd, workers_only | settings),
                self.servers,
                group,
                topic,
                Load(partial(_value, codec, topic, value), [f"{run}-k{key}" for key in range(keys)], events, rate),
                faults if isinstance(faults, int) else [named(name) for name in faults],
                partial(_dead, self.servers.endpoints.bootstrap, f"{topic}.{group}{SUFFIX}"),
                workers=workers,
                quiet=seconds(quiet),
            )()


def _value(codec: Codec, topic: str, value: Callable[[str, int], Mapping[str, Any] | bytes], event: Event) -> bytes:
    made = value(*event)
    return made if isinstance(made, bytes) else codec.encoder(topic)(made)


def _dead(bootstrap: str, topic: str) -> Iterable[Event]:
    log = Log(KafkaSettings(bootstrap=bootstrap))
    if topic not in log.topics():
        return
    partitions = log.partitions(topic)
    starts, ends = log.starts(partitions), log.ends(partitions)
    for message in log.read({tp: (starts[tp], ends[tp]) for tp in partitions}):
        found = dict(message.headers() or ()).get(CE_ID)
        if found is not None:
            yield event_of(found.decode())
