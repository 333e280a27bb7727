"""The Lua scripts, by name. EVALSHA sends a hash instead of the source; ``evaluate`` loads what a server lacks."""

from __future__ import annotations

import hashlib
from importlib import resources

__all__ = [
    "ACQUIRE",
    "APPLY",
    "EXTEND",
    "GOLIVE",
    "INVALIDATE",
    "LOCK",
    "PASS",
    "RELEASE",
    "SCRIPTS",
    "TAGGED",
    "TOUCH",
    "WATERMARK",
    "Script",
]


class Script:
    """One script: its source and the SHA-1 by which Redis knows it."""

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = resources.files("headwater_cache").joinpath(f"{name}.lua").read_text("utf-8")
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: list[str], args: list[str | bytes]) -> tuple[str | bytes, ...]:
        """The command that runs it."""
        return ("EVALSHA", self.sha, str(len(keys)), *keys, *args)


APPLY = Script("apply")
ACQUIRE = Script("lease")
RELEASE = Script("release")
TOUCH = Script("touch")
INVALIDATE = Script("invalidate")
PASS = Script("pass")
GOLIVE = Script("golive")
TAGGED = Script("tagged")
WATERMARK = Script("watermark")
LOCK = Script("lock")
EXTEND = Script("extend")
SCRIPTS = (APPLY, ACQUIRE, RELEASE, TOUCH, INVALIDATE, PASS, GOLIVE, TAGGED, WATERMARK, LOCK, EXTEND)
