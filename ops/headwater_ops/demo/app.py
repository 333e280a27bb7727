"""The demo's worker: ``headwater worker headwater_ops.demo.app:app``.

    flights.scheduled, .departed, .arrived, .cancelled   -> track_flights -> flight.changes, flights.legs,
                                                                             flights.delayed
    flights.legs, weather.observed                       -> keep_boards   -> airport-board.changes
    flights.delayed                                      -> report_delays -> task delay.report
    *.changes                                            -> cache sync    -> Redis

The first two fold into memory that is restored from the change topics. A batch is folded, emitted and kept without
awaiting anything in between, so handlers of other topics of the same partition never see half a batch. Nothing waits
for acknowledgements: a batch counts as settled when all that it emitted is acknowledged, and what a crash repeats is
recognised by its offsets (see ``stores`` and ``boards``).
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

from faust.types import TP

from headwater_cache import EntityCache, RedisSettings
from headwater_ops.demo.boards import legs_by_airport
from headwater_ops.demo.catalogue import demo_catalogue
from headwater_ops.demo.delays import DelayReport, ReportDeskBusy, delayed_event, is_late, stumbles, summary
from headwater_ops.demo.entities import BOARD, CONTRACTS, FLIGHT, Entities
from headwater_ops.demo.flights import events_known
from headwater_ops.demo.memory import Memory
from headwater_ops.demo.names import Names
from headwater_ops.demo.stores import Boards, Flights, Read
from headwater_ops.demo.topics import DELAYED, FLIGHT_TOPICS, GROUP, LEGS, REPORT, SCHEDULED, WEATHER
from headwater_schemas.settings import KafkaSettings
from headwater_schemas.wire import change_topic
from headwater_streams import EventContext, RecordBatch, Retry, StreamApp
from headwater_streams.cache_sync import sync_cache
from headwater_streams.transport.log import Log
from headwater_tasks import TaskClient, install, task
from headwater_tasks.projection import project

__all__ = ["app"]

Value = dict[str, Any]

app = StreamApp(GROUP, catalogue=demo_catalogue())


@cache
def entities() -> Entities:
    """Made once per worker; asks the registry."""
    return Entities.from_env(app.env, app.codec, source=GROUP)


@cache
def tasks() -> TaskClient:
    """Made once per worker; asks the registry."""
    return TaskClient.from_env(app.env, source=GROUP)


@app.batch_handler(*FLIGHT_TOPICS, max_records=250)
async def track_flights(batch: RecordBatch) -> None:
    """Join events into the states of their flights, and tell the boards what happened."""
    topic, partition = batch.tp
    store = await flights.of(partition)
    names = await Names.read(entities(), batch.values) if topic == SCHEDULED else Names()
    records = _reads(batch)
    changed, facts = store.fold(records, names.of)
    for airport, legs in legs_by_airport(f"{topic}-{partition}", facts).items():
        batch.emit(LEGS, legs, key=airport)
    late = {fact.offset for fact in facts if is_late(fact)}
    for record in records:
        if record.offset in late:
            batch.emit(DELAYED, delayed_event(record.value), key=record.key)
    change, destination = entities().change, change_topic(FLIGHT)
    for key, state in changed.items():
        batch.emit(destination, change(FLIGHT, key, events_known(state), state), key=key)
    store.keep(changed)


@app.batch_handler(LEGS, WEATHER, max_records=500)
async def keep_boards(batch: RecordBatch) -> None:
    """Count facts and take over weather: one change per airport and batch."""
    store = await boards.of(batch.tp.partition)
    changed = store.fold(_reads(batch))
    for key, (version, board) in changed.items():
        batch.emit(change_topic(BOARD), entities().change(BOARD, key, version, board), key=key)
    store.keep(changed)


@app.handler(DELAYED, retry=Retry("1s", "10s"))
async def report_delays(delayed: Value, event: EventContext) -> None:
    """Have a report written about each late flight; once, however often its event comes."""
    flight_id = delayed["flight_id"]
    if event.attempt == 0 and stumbles(flight_id):
        raise ReportDeskBusy(f"no time for {flight_id} now")
    report = DelayReport(flight_id, delayed["destination"], delayed["delay_minutes"])
    await tasks().submit(REPORT, report, idempotency_key=flight_id)


@task(REPORT)
async def write_report(report: DelayReport) -> Value:
    """Write one."""
    flight = await entities().view(FLIGHT).aget(report.flight_id)
    board = await entities().view(BOARD).aget(report.destination)
    return {"summary": summary(report, flight), "mean_delay_there": board and board["mean_arrival_delay"]}


def _reads(batch: RecordBatch) -> list[Read]:
    rows = zip(batch.offsets, batch.keys, batch.values, strict=True)
    return [Read(batch.tp.topic, offset, key, value) for offset, key, value in rows if key and value is not None]


async def _restored_flights(partition: int) -> Flights:
    store = Flights()
    latest = await asyncio.to_thread(_latest, FLIGHT, partition)
    store.keep({key: state for key, (_, state) in latest.items()})
    return store


async def _restored_boards(partition: int) -> Boards:
    store = Boards()
    store.keep(await asyncio.to_thread(_latest, BOARD, partition))
    return store


def _latest(entity: str, partition: int) -> dict[str, tuple[int, Value]]:
    """Version and value of each key on a partition of an entity's change topic. Blocks."""
    tp = TP(change_topic(entity), partition)
    decode = app.codec.decoder(tp.topic)
    log = Log(KafkaSettings.from_env(app.env))
    latest: dict[str, tuple[int, Value]] = {}
    for record in log.read({tp: (log.starts([tp])[tp], log.ends([tp])[tp])}):
        if record.value() is not None:
            change = decode(record.value())
            latest[change["key"]] = change["version"], entities().decode(entity, change)
    return latest


flights = Memory(_restored_flights)
boards = Memory(_restored_boards)


@app.partitions_gone
def forget(partitions: frozenset[TP]) -> None:
    """Another worker goes on with these; what it does to them is not seen here."""
    flights.forget(tp.partition for tp in partitions if tp.topic in FLIGHT_TOPICS)
    boards.forget(tp.partition for tp in partitions if tp.topic in (LEGS, WEATHER))


for entity in CONTRACTS:
    sync_cache(app, EntityCache[bytes](entity, RedisSettings.from_env(app.env)))
install(app, write_report)
project(app)
