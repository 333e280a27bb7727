"""Headwater streams: Faust agents at librdkafka speed, with ordered retries, dead letters and a proof of both."""

from headwater_streams.app import StreamApp
from headwater_streams.handlers.batch import RecordBatch, Rewind
from headwater_streams.handlers.context import EventContext
from headwater_streams.handlers.dependency import DependencyDown
from headwater_streams.handlers.limits import DeadLimit
from headwater_streams.handlers.policy import DeadLetter, HandlerTimeout, Retry, RetryLater

__all__ = [
    "DeadLetter",
    "DeadLimit",
    "DependencyDown",
    "EventContext",
    "HandlerTimeout",
    "RecordBatch",
    "Retry",
    "RetryLater",
    "Rewind",
    "StreamApp",
]
