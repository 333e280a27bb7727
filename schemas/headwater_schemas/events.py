"""Typed events, one struct per contract.

Written by `headwater schemas generate` from contracts/*.avsc; edit those.
"""

from __future__ import annotations

import datetime
from enum import StrEnum

import msgspec

__all__ = [
    "ActedRecord",
    "ChangeEvent",
    "ChangeOp",
    "OperatorAction",
    "Task",
    "TaskCancelRequested",
    "TaskState",
    "TaskSubmitted",
]


class ChangeOp(StrEnum):
    """What the change does to its key."""

    UPSERT = "UPSERT"
    DELETE = "DELETE"


class ChangeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one entity: what caches and views follow. On a compacted topic a Kafka tombstone follows a
    DELETE.
    """

    entity: str
    """The kind of thing that changed, e.g. flights; the topic is <entity>.changes."""
    key: str
    """The business key; also the record's key."""
    version: int
    """Grows with every change of the key, from one sequence per entity; never restarts at a reinsert."""
    op: ChangeOp
    """UPSERT puts the value, DELETE removes it."""
    schema_id: int | None = None
    """Registry id of the schema that the value is written with; null for a DELETE."""
    value: bytes | None = None
    """The entity as Avro binary, without the five-byte prefix; null for a DELETE."""
    source: str
    """Who made the change: a service or a database."""
    occurred_at: datetime.datetime
    """When the change was committed at the source."""


class ActedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One record. Of a purge: everything before this offset."""

    partition: int
    """Its partition, the same in the target."""
    offset: int
    """Its offset."""
    target_offset: int | None = None
    """Its offset in the target."""


class OperatorAction(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator did to records: who, when, to which, and where they went. Never holds a record's value."""

    at: datetime.datetime
    """When."""
    actor: str
    """Who: user@host of a command, the name of an API key."""
    run: str
    """One call of a command; a large one acts in several steps, each with an entry of its own."""
    action: str
    """dead-letters.redrive, dead-letters.edit or dead-letters.purge."""
    topic: str
    """The topic that was acted on; also the record's key."""
    group: str | None = None
    """The consumer group that the records belong to."""
    target: str | None = None
    """The topic that the records were written to."""
    selection: str
    """What was asked for."""
    note: str | None = None
    """Why, in the operator's words."""
    changed: list[str] = msgspec.field(default_factory=list)
    """Of an edit: the fields that differ now."""
    records: list[ActedRecord]
    """The records, in the order in which they were taken."""


class TaskState(StrEnum):
    """Where a task stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    RETRY_WAIT = "RETRY_WAIT"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """State of one task: the value of a change event on task.changes."""

    id: str
    """The task."""
    type: str
    """Which function runs it."""
    state: TaskState
    """Where it stands. The last five are terminal for a run."""
    run: int
    """1, then one more for each retry by hand."""
    attempt: int
    """Which call of the function in this run, from 1; 0 before the first."""
    step: int
    """Orders the states of an attempt; see the version of the change event."""
    partition: int
    """Where its submission stands on the topic tasks."""
    offset: int
    """Offset of its submission there."""
    submitted_at: datetime.datetime
    """When this run was submitted."""
    due_at: datetime.datetime | None = None
    """When it is to be run (PENDING) or tried again (RETRY_WAIT); null: as soon as a worker is free."""
    deadline: datetime.datetime | None = None
    """Not to be run after."""
    started_at: datetime.datetime | None = None
    """When the last attempt began."""
    finished_at: datetime.datetime | None = None
    """When it ended."""
    progress: float | None = None
    """What the function reported, 0 to 1."""
    message: str | None = None
    """What the function said with it, or why it was cancelled."""
    result: bytes | None = None
    """What the function returned: JSON, UTF-8."""
    error: str | None = None
    """Class and message of the last error; the stack is with the dead letter."""
    idempotency_key: str | None = None
    """The submitter's."""
    worker: str | None = None
    """Who runs or ran it: group and host."""


class TaskCancelRequested(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody wants a run of a task cancelled; keyed by task id."""

    id: str
    """The task; also the record's key."""
    run: int
    """The run that is meant, and those before it; a later retry is not cancelled."""
    requested_at: datetime.datetime
    """When."""
    reason: str | None = None
    """Why, for people."""


class TaskSubmitted(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody wants a task run: one record per run, keyed by task id. A task that is retried by hand gets a record
    with the next run.
    """

    id: str
    """The task; also the record's key. Derived from the idempotency key where there is one."""
    type: str
    """Which function runs it, e.g. invoice.render."""
    run: int
    """1, then one more for each retry by hand."""
    payload: bytes
    """What the function is given: JSON, UTF-8."""
    submitted_at: datetime.datetime
    """When this run was submitted."""
    due_at: datetime.datetime | None = None
    """Not to be run before; null: at once."""
    deadline: datetime.datetime | None = None
    """Not to be run after, nor to be still running; null: no limit."""
    idempotency_key: str | None = None
    """The submitter's; the same key and type is the same task."""
