"""Leaves of the error tree for the embedded stack; each message says what happened and what to do.

UsageError
├── PortTaken          another program listens on a port that was asked for
├── NoServer           this platform has no Java, or no Redis-protocol server, that we could run
└── StateMismatch      the state folder holds a stack of another shape
StackUnavailable
├── DownloadFailed     an artifact could not be fetched
├── HashMismatch       an artifact is not the one that is locked
├── NoSpace            the disk is full
└── StartFailed        a part ended, or was not ready in time
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from headwater_schemas.errors import HeadwaterError, StackUnavailable, UsageError

__all__ = [
    "DownloadFailed",
    "HashMismatch",
    "NoServer",
    "NoSpace",
    "PortTaken",
    "StackUnavailable",
    "StartFailed",
    "StateMismatch",
    "UsageError",
    "check_space",
    "translated",
]


class PortTaken(UsageError):
    """Another program listens on a port that was asked for."""


class NoServer(UsageError):
    """A server program is not installed, and none is to be had for this platform."""


class StateMismatch(UsageError):
    """The state folder holds a stack of another shape: wipe it, or use another folder."""


class DownloadFailed(StackUnavailable):
    """An artifact could not be fetched; what arrived is kept, so the next attempt resumes."""


class HashMismatch(StackUnavailable):
    """An artifact does not have the locked SHA-256; it is removed and never run."""


class NoSpace(StackUnavailable):
    """The disk has too little room."""


class StartFailed(StackUnavailable):
    """A part ended while it started, or was not ready in time; the message ends with its log."""


_SPARE = 64 << 20  # bytes a disk keeps free beside what is needed


def check_space(folder: Path, needed: int, setting: str) -> None:
    """Refuse to begin what would fill the disk of ``folder``; ``setting`` names the way to another disk.

    Raises:
        NoSpace: fewer than ``needed`` bytes and a reserve are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE:
        raise NoSpace(
            f"{folder} has {free >> 20} MiB free and {(needed + _SPARE) >> 20} MiB are needed: free some space, "
            f"or set {setting} to a folder on another disk"
        )


def translated(exc: OSError, path: Path, setting: str) -> HeadwaterError:
    """The error of ours for a failed write at ``path``."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left for {path}: free some, or set {setting} to a folder on another disk")
    return UsageError(f"{path} cannot be written ({exc.strerror}): set {setting} to a folder of yours")
