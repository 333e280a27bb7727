"""What goes over the wire as JSON: the request bodies and the documents that are answered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from headwater_schemas.durations import seconds
from headwater_schemas.errors import UsageError
from headwater_schemas.events import Task, TaskState
from headwater_tasks.history import Transition
from headwater_tasks.names import TYPE_LENGTH, TYPE_PATTERN

__all__ = ["CancelRequest", "EmitRequest", "Emitted", "Submission", "TaskDocument", "TaskHistoryDocument", "TaskList"]


def _duration(value: Any) -> Any:
    try:
        return seconds(value) if isinstance(value, str | int | float) else value
    except (UsageError, OverflowError) as exc:
        raise ValueError(str(exc)) from exc


_YEAR = 366 * 86_400.0

_Text = Annotated[str, Field(pattern=r"^\d{1,9}(\.\d{1,3})?(ms|s|m|h|d)$")]
_Seconds = Annotated[float, Field(ge=0, le=_YEAR)]

DurationField = Annotated[
    float,
    BeforeValidator(_duration, json_schema_input_type=_Text | _Seconds),
    Field(ge=0, le=_YEAR, allow_inf_nan=False),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Submission(_Request):
    """A task to be run."""

    type: str = Field(
        description="Which function runs it.",
        examples=["invoice.render"],
        max_length=TYPE_LENGTH,
        pattern=f"^{TYPE_PATTERN}$",
    )
    payload: Any = Field(default=None, description="What the function is given.", examples=[{"number": 3}])
    delay: DurationField | None = Field(
        default=None, description="Not to be run before this long from now: 30s, 10m, 1h, or seconds; at most 366 days."
    )
    deadline: DurationField | None = Field(
        default=None, description="Not to be run, nor be running, after this long from now."
    )


class CancelRequest(_Request):
    """Why a task is cancelled."""

    reason: str | None = Field(default=None, max_length=500)


class EmitRequest(_Request):
    """An event to be emitted."""

    key: str | None = Field(default=None, max_length=500, description="The business key: decides partition and order.")
    value: dict[str, Any] | None = Field(description="By the topic's schema; null is a tombstone, on compacted topics.")
    id: str | None = Field(
        default=None,
        pattern=r"^[!-~]{1,200}$",
        description="Its ce_id; without one it gets a new one. Name it, so that a repeated request is the same event.",
    )
    timeout: DurationField = Field(default=10.0, description="How long to wait for Kafka before the answer is 503.")


class Emitted(BaseModel):
    """An event that is safe."""

    topic: str
    partition: int | None = Field(description="Where it stands; null while it is spooled.")
    offset: int | None
    id: str = Field(description="Its ce_id.")


class TaskDocument(BaseModel):
    """A task as it stands."""

    id: str
    type: str
    state: TaskState
    run: int = Field(description="1, then one more for each retry by hand.")
    attempt: int = Field(description="Which call of the function in this run; 0 before the first.")
    submitted_at: datetime
    due_at: datetime | None = Field(description="When it is to run, or to be tried again; null: at once.")
    deadline: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    progress: float | None = Field(description="0 to 1, as the function reported.")
    message: str | None
    result: Any = Field(description="What the function returned.")
    error: str | None
    idempotency_key: str | None
    worker: str | None

    @classmethod
    def of(cls, task: Task) -> TaskDocument:
        return cls(
            id=task.id,
            type=task.type,
            state=task.state,
            run=task.run,
            attempt=task.attempt,
            submitted_at=task.submitted_at,
            due_at=task.due_at,
            deadline=task.deadline,
            started_at=task.started_at,
            finished_at=task.finished_at,
            progress=task.progress,
            message=task.message,
            result=None if task.result is None else msgspec.json.decode(task.result),
            error=task.error,
            idempotency_key=task.idempotency_key,
            worker=task.worker,
        )


class TaskList(BaseModel):
    """Some tasks, newest first."""

    tasks: list[TaskDocument]
    cursor: str | None = Field(description="Continues behind these; null: there are no more.")


class TransitionDocument(BaseModel):
    """A state that the task was in."""

    state: TaskState
    run: int
    attempt: int
    at: datetime
    due_at: datetime | None
    error: str | None
    message: str | None
    worker: str | None


class TaskHistoryDocument(BaseModel):
    """What a task went through, oldest first, as far as it is remembered."""

    id: str
    states: list[TransitionDocument]

    @classmethod
    def of(cls, id_: str, states: Sequence[Transition]) -> TaskHistoryDocument:
        return cls(id=id_, states=[TransitionDocument(**msgspec.structs.asdict(state)) for state in states])
