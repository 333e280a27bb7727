"""The embedded stack: Kafka, Redis and the schema registry as processes of this machine, no Docker, no root."""

from __future__ import annotations

import fcntl
import shutil
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from headwater_ops.stack import endpoints as places
from headwater_ops.stack.aot import AotCaches
from headwater_ops.stack.download import Downloads, Progress
from headwater_ops.stack.endpoints import Endpoints
from headwater_ops.stack.errors import PortTaken, StartFailed, StateMismatch, UsageError, check_space, translated
from headwater_ops.stack.kafka import Broker, cluster_nodes, new_id
from headwater_ops.stack.layout import Layout
from headwater_ops.stack.lock import load_lock
from headwater_ops.stack.part import Part
from headwater_ops.stack.ports import PortChoice, choose, is_free
from headwater_ops.stack.process import ServerProcess
from headwater_ops.stack.redis import Redis
from headwater_ops.stack.registry import Registry

__all__ = ["SERVICES", "PartStatus", "Service", "Stack"]

Service = Literal["kafka", "redis", "registry"]
SERVICES: tuple[Service, ...] = ("kafka", "redis", "registry")

_Ports = dict[str, dict[str, int]]  # part -> listener -> port

_PORT_ATTEMPTS = 3
_GRACE_OF_WIPED = 2.0  # seconds: brokers left without a quorum try to say good-bye for up to seven
_STATE_BYTES = 100 << 20  # what an empty stack may write


@dataclass(frozen=True, slots=True)
class PartStatus:
    """How one part is. ``ready`` was asked of the server itself; ``memory`` is resident, in bytes."""

    name: str
    pid: int | None
    ready: bool
    ports: dict[str, int]
    log: Path
    memory: int | None


class Stack:
    """The stack of one state folder. Objects hold no process: any of them, in any process, finds what runs.

    Args:
        state_dir: configuration, data and logs; default: ``HEADWATER_STATE_DIR`` or the user's state folder.
        cache_dir: downloads; default: ``HEADWATER_CACHE_DIR`` or the user's cache folder.
        brokers: Kafka nodes, 1 or 3; default: as the folder has, else 1. With 3, topics are replicated three times.
        ports: see ``PortChoice``. A folder's ports stay the same over restarts while they are free.
        progress: told about downloads.
        advertised: further listeners of the brokers: name to node to the port at which clients are told to find it,
            where a proxy of yours forwards to the port that ``status`` gives for that name; not kept with the folder.
        broker_properties: Kafka's properties for each broker, beside and before ours; not kept with the folder.

    Raises:
        UsageError: ``brokers`` is neither 1 nor 3.
    """

    def __init__(
        self,
        state_dir: Path | None = None,
        *,
        cache_dir: Path | None = None,
        brokers: int | None = None,
        ports: PortChoice = "auto",
        progress: Progress | None = None,
        advertised: Mapping[str, Mapping[int, int]] | None = None,
        broker_properties: Mapping[str, str] | None = None,
    ) -> None:
        if brokers not in (None, 1, 3):
            raise UsageError(f"{brokers} brokers: pass 1, or 3 for a replicated cluster")
        self.state_dir = state_dir or places.state_dir()
        self._root = self.state_dir / "stack"
        self._brokers = brokers
        self._advertised = dict(advertised or {})
        self._broker_properties = dict(broker_properties or {})
        self._ports: PortChoice = ports
        cache = cache_dir or places.cache_dir()
        self._downloads = Downloads(cache, progress)
        self._aot = AotCaches(cache)

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.down()

    def up(self, *services: Service, timeout: float = 120.0) -> Endpoints:
        """Start what does not run and block until it serves. What runs already is left alone.

        Args:
            services: ``kafka``, ``redis``, ``registry``; none means all. The addresses of services that were never
                started are returned too, but nobody listens there.
            timeout: seconds each part may take to become ready; downloads do not count.

        Raises:
            UsageError: PortTaken, NoServer, StateMismatch: fix it first.
            StackUnavailable: DownloadFailed, HashMismatch, NoSpace, StartFailed. What this call started is stopped.
        """
        with self._exclusive():
            check_space(self.state_dir, _STATE_BYTES, "HEADWATER_STATE_DIR")
            wanted = services or SERVICES
            self._download(wanted)
            for attempt in range(_PORT_ATTEMPTS):
                layout = self._laid_out()
                try:
                    parts = self._parts(layout).values()
                    self._start_all([part for part in parts if part.service in wanted], timeout)
                    break
                except PortTaken:  # somebody was quicker than we
                    if self._ports == "usual" or attempt + 1 == _PORT_ATTEMPTS:
                        raise
            if "kafka" in wanted:
                self._await_cluster(layout, timeout)
        return Endpoints.of(layout)

    def down(self, *, wipe: bool = False) -> None:
        """Stop every part and block until all are gone; fine when nothing runs.

        Args:
            wipe: also remove configuration, data and logs.
        """
        if not self._root.exists():
            return
        with self._exclusive():
            # By pid file, not by layout: this also finds the parts of an `up` that was killed half-way.
            names = [file.parent.name for file in self._root.glob("*/pid.json")]
            self._stop(names, _GRACE_OF_WIPED if wipe else Part.grace)
            if wipe:
                shutil.rmtree(self._root)

    def endpoints(self) -> Endpoints | None:
        """Where the parts are, if all of them run."""
        return places.running(self.state_dir)

    def status(self) -> list[PartStatus]:
        """Every part of this folder; empty when no stack was ever started here. Blocks up to some seconds."""
        layout = Layout.load(self._root)
        if layout is None:
            return []
        parts = self._parts(layout)
        with ThreadPoolExecutor(len(parts)) as pool:
            return list(pool.map(_status, parts.values()))

    def start(self, part: str, timeout: float = 120.0) -> None:
        """Start one part that was stopped or killed, on the same ports and data, and block until it serves.

        Raises:
            UsageError: there is no such part.
            StackUnavailable: it did not start.
        """
        self._part(part).start(timeout)

    def stop(self, part: str) -> None:
        """Stop one part cleanly and block until it is gone."""
        self._part(part).stop()

    def kill(self, part: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one part: a crash, or with SIGSTOP and SIGCONT a freeze.

        Returns once a SIGKILL or SIGTERM has ended it; clients may notice later.

        Raises:
            UsageError: there is no such part, or it does not run.
        """
        server = self._part(part).process
        if not server.signal(number):
            raise UsageError(f"{part} does not run: start it first")
        if number in (signal.SIGKILL, signal.SIGTERM) and not server.wait_gone(30.0):
            raise StartFailed(f"{part} did not end within 30 s of signal {number}; {server.log_tail()}")

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One `up` or `down` at a time per state folder."""
        try:
            self.state_dir.mkdir(parents=True, exist_ok=True)
            lock = (self.state_dir / "stack.lock").open("w")
        except OSError as exc:
            raise translated(exc, self.state_dir, "HEADWATER_STATE_DIR") from exc
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _laid_out(self) -> Layout:
        """The folder's layout, with ports that can be had: where someone else listens now, another is chosen."""
        known = Layout.load(self._root)
        if known is not None and self._brokers not in (None, len(known.brokers)):
            raise StateMismatch(
                f"{self._root} holds {len(known.brokers)} broker(s), {self._brokers} are asked for: "
                "headwater down --wipe first, or set HEADWATER_STATE_DIR to another folder"
            )
        usual = _usual_ports(len(known.brokers) if known else self._brokers or 1, self._advertised)
        kept = self._kept(known.ports, usual) if known else {}
        self._stop(name for name in usual if name not in kept)
        layout = Layout(known.cluster_id if known else new_id(), self._choose(usual, kept))
        layout.save(self._root)
        return layout

    def _kept(self, ports: _Ports, usual: _Ports) -> _Ports:
        """The parts whose ports can stay."""
        kept = {
            name: listeners
            for name, listeners in ports.items()
            if (self._ports != "usual" or listeners == usual[name])
            and (self._server(name).find() is not None or all(map(is_free, listeners.values())))
        }
        if any(name.startswith("broker-") for name in ports.keys() - kept.keys()):
            # Brokers name each other's ports: when one moves, all start anew.
            return {name: listeners for name, listeners in kept.items() if not name.startswith("broker-")}
        return kept

    def _choose(self, usual: _Ports, kept: _Ports) -> _Ports:
        taken = {port for listeners in kept.values() for port in listeners.values()}
        chosen: _Ports = {}
        for name, listeners in usual.items():
            chosen[name] = dict(kept.get(name, {}))
            for listener in listeners.keys() - chosen[name].keys():
                port = choose(self._ports, listeners[listener], taken, f"{name} ({listener})")
                chosen[name][listener] = port
                taken.add(port)
        return chosen

    def _server(self, name: str) -> ServerProcess:
        return ServerProcess(name, self._root / name)

    def _stop(self, names: Iterable[str], grace: float = Part.grace) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: self._server(name).stop(grace), names))

    def _parts(self, layout: Layout) -> dict[str, Part]:
        ports = layout.ports
        controllers = {node: ports[f"broker-{node}"]["controller"] for node in layout.brokers}
        parts: list[Part] = [
            Broker(
                node,
                self._root / f"broker-{node}",
                ports[f"broker-{node}"],
                cluster_id=layout.cluster_id,
                controllers=controllers,
                downloads=self._downloads,
                aot=self._aot,
                advertised={name: told[node] for name, told in self._advertised.items()},
                properties=self._broker_properties,
            )
            for node in layout.brokers
        ]
        parts.append(Redis("redis", self._root / "redis", ports["redis"]))
        parts.append(Registry(self._root / "registry", ports["registry"], downloads=self._downloads, aot=self._aot))
        return {part.name: part for part in parts}

    def _part(self, name: str) -> Part:
        layout = Layout.load(self._root)
        parts = self._parts(layout) if layout else {}
        if name not in parts:
            known = ", ".join(parts) or "none: run headwater up first"
            raise UsageError(f"there is no part {name!r}; the parts here: {known}")
        return parts[name]

    def _download(self, services: Collection[Service]) -> None:
        """Before the parts start, so that ^C ends a long download at once and the bar shows all of it."""
        if "kafka" in services:
            self._downloads.fetch(load_lock().kafka)
        if "registry" in services:
            self._downloads.unpack(load_lock().registry)

    def _start_all(self, parts: list[Part], timeout: float) -> None:
        """Start in parallel. When one fails, stop those that this call started and raise its error."""
        ran = {part.name for part in parts if part.process.find() is not None}
        with ThreadPoolExecutor(len(parts)) as pool:
            futures = [pool.submit(part.start, timeout) for part in parts]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                for part in parts:
                    part.abandon()
                wait(futures)  # each ends soon, having stopped its server unless that was ready already
                self._stop(part.name for part in parts if part.name not in ran)
                raise

    def _await_cluster(self, layout: Layout, timeout: float) -> None:
        """Each broker serves by now; wait until they also know each other, so that replicated topics can be made."""
        bootstrap = Endpoints.of(layout).bootstrap
        deadline = time.monotonic() + timeout
        while not cluster_nodes(bootstrap, 1.0).issuperset(layout.brokers):
            if time.monotonic() >= deadline:
                raise StartFailed(f"the brokers at {bootstrap} did not form a cluster within {timeout:.0f} s")
            time.sleep(0.1)


def _usual_ports(brokers: int, further: Iterable[str] = ()) -> _Ports:
    """The well-known port of every listener, further ones after it; a second broker is 100 above the first."""
    listeners = dict(Broker.listeners)
    for listener in further:
        listeners[listener] = max(listeners.values()) + 1
    ports = {
        f"broker-{node}": {listener: port + 100 * (node - 1) for listener, port in listeners.items()}
        for node in range(1, brokers + 1)
    }
    return ports | {"redis": dict(Redis.listeners), "registry": dict(Registry.listeners)}


def _status(part: Part) -> PartStatus:
    process = part.process.find()
    return PartStatus(
        name=part.name,
        pid=process.pid if process else None,
        ready=process is not None and part.is_ready(),
        ports=part.ports,
        log=part.process.log,
        memory=process.memory_info().rss if process else None,
    )
