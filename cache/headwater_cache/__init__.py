"""A versioned write-through cache over Redis that converges on its source of truth."""

from headwater_cache.audit import Auditor, AuditReport, Violation
from headwater_cache.cache import EntityCache
from headwater_cache.changes import ApplyOutcome, ApplyResult, Change, ChangeLog, Position
from headwater_cache.continuity import Rewind, TopicPartition
from headwater_cache.decorator import CachedFunction, cached
from headwater_cache.errors import (
    CacheFull,
    ContinuityLost,
    InvalidKey,
    LockLost,
    LockTaken,
    NoFreeConnection,
    NotVisibleYet,
    RefillNeeded,
    SourceBusy,
    SourceFailed,
    UnsafeRedis,
    ViewNotReady,
    WrongEpoch,
)
from headwater_cache.explain import Explanation
from headwater_cache.filter import KeyFilter
from headwater_cache.lock import Lock
from headwater_cache.near import NearPolicy
from headwater_cache.postgres import PostgresTable
from headwater_cache.reads import Reading
from headwater_cache.settings import CachePolicy, RedisSettings
from headwater_cache.source import Loaded, Source
from headwater_cache.stats import CacheStats
from headwater_cache.tableview import TableView
from headwater_cache.values import AvroValues, MsgpackValues, ValueCodec
from headwater_cache.versions import Version, VersionToken, log_version, version

__all__ = [
    "ApplyOutcome",
    "ApplyResult",
    "AuditReport",
    "Auditor",
    "AvroValues",
    "CacheFull",
    "CachePolicy",
    "CacheStats",
    "CachedFunction",
    "Change",
    "ChangeLog",
    "ContinuityLost",
    "EntityCache",
    "Explanation",
    "InvalidKey",
    "KeyFilter",
    "Loaded",
    "Lock",
    "LockLost",
    "LockTaken",
    "MsgpackValues",
    "NearPolicy",
    "NoFreeConnection",
    "NotVisibleYet",
    "Position",
    "PostgresTable",
    "Reading",
    "RedisSettings",
    "RefillNeeded",
    "Rewind",
    "Source",
    "SourceBusy",
    "SourceFailed",
    "TableView",
    "TopicPartition",
    "UnsafeRedis",
    "ValueCodec",
    "Version",
    "VersionToken",
    "ViewNotReady",
    "Violation",
    "WrongEpoch",
    "cached",
    "log_version",
    "version",
]
