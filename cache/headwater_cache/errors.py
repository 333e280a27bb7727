"""The cache's own errors: leaves below the branches of ``headwater_schemas.errors``.

    UsageError
    ├── InvalidKey           the key is empty, not text or too long
    ├── UnsafeRedis          this Redis can not keep the promises of the mode (eviction policy); a SettingError
    ├── WrongEpoch           the namespace has moved on to a newer epoch; a SettingError
    └── RefillNeeded         following its log can not make this view right: fill a new epoch; a SettingError
    Unavailable
    ├── NotVisibleYet        a newer version is known and not here yet, or a token's version has not arrived
    ├── ViewNotReady         the view has not caught up with its log, so a miss says nothing
    ├── ContinuityLost       Redis forgot applied events (failover, emptied): rewind as ``rewind`` says, then go on
    ├── LockTaken            another holds the lock
    ├── LockLost             the lock has ended under its holder
    ├── SourceFailed         the source of truth could not be read, and nothing stale may be served
    ├── SourceBusy           the bulkhead before the source is full; also an Overloaded
    └── NoFreeConnection     more callers than connections to Redis; a CacheUnavailable and an Overloaded

A Redis that does not answer is ``CacheUnavailable``, one that refuses us ``NotPermitted``, a full one ``CacheFull`` (an
Overloaded).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater_schemas.errors import CacheUnavailable, Overloaded, SettingError, Unavailable, UsageError

if TYPE_CHECKING:
    from headwater_cache.continuity import Rewind

__all__ = [
    "CacheFull",
    "ContinuityLost",
    "InvalidKey",
    "LockLost",
    "LockTaken",
    "NoFreeConnection",
    "NotVisibleYet",
    "RefillNeeded",
    "SourceBusy",
    "SourceFailed",
    "UnsafeRedis",
    "ViewNotReady",
    "WrongEpoch",
]


class InvalidKey(UsageError):
    """The key is empty, not text, or over the limit of the policy."""


class UnsafeRedis(SettingError):
    """The Redis is set up so that this mode would serve wrong answers; the message says which setting and why."""


class WrongEpoch(SettingError):
    """The namespace's live epoch is newer than the one that was asked for."""


class RefillNeeded(SettingError):
    """The log is not the one that the view was filled from, or lost deletions since. The message says what to do."""


class CacheFull(Overloaded):
    """Redis is at its memory limit and refuses writes."""


class NoFreeConnection(CacheUnavailable, Overloaded):
    """Every connection to Redis was busy for as long as a command may take. Redis may be well; back off."""


class NotVisibleYet(Unavailable):
    """A version known to exist has not arrived in the cache within the wait of the policy. Ask again a little later."""


class ViewNotReady(Unavailable):
    """The view has not been filled from its log yet (or Redis was emptied): an absent key does not mean not found."""


class ContinuityLost(Unavailable):
    """Redis no longer holds events that were applied before. Do not commit; rewind as ``rewind`` says and replay."""

    def __init__(self, message: str, rewind: Rewind) -> None:
        super().__init__(message)
        self.rewind = rewind


class LockTaken(Unavailable):
    """Another holds the lock, and did not give it back within the wait. Do without, or come again later."""


class LockLost(Unavailable):
    """The lock has ended, and another may hold it: stop what it was for, or begin anew under a new one."""


class SourceFailed(Unavailable):
    """The source's ``load`` or ``write`` raised (see the cause) and no older value may be served instead."""


class SourceBusy(Overloaded):
    """As many loads as the bulkhead allows are in flight. Nothing was asked of the source; back off."""
