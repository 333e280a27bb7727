"""The scripts once more, in Python, written from the rules and not from the Lua, for the differential test."""

from __future__ import annotations

from dataclasses import dataclass, field

from headwater_cache.entry import HEADER_SIZE, SEEN_SIZE


@dataclass
class Model:
    """What Redis holds for some keys. Life: ms, ``"0"`` = for ever."""

    entries: dict[str, bytes] = field(default_factory=dict)
    lives: dict[str, str] = field(default_factory=dict)
    leases: dict[str, bytes] = field(default_factory=dict)

    def acquire(self, key: str, token: bytes, domain: bytes, seen: bytes) -> list[bytes | None]:
        old = self.entries.get(key, b"")
        if seen == b"?":
            if old[:1] in (b"V", b"T") and old[2:10] == domain:
                return [b"p"]
        elif old[:SEEN_SIZE] != seen:
            return [b"c", old or None]
        if key in self.leases:
            return [b"g" if self.leases[key] == token else b"h"]
        self.leases[key] = token
        return [b"g"]

    def release(self, key: str, token: bytes) -> int:
        return int(self.leases.get(key) == token and self.leases.pop(key) is not None)

    def invalidate(self, key: str, fence_ms: str, only: bytes = b"") -> int:
        if only and self.entries.get(key, b"")[10:40] != only:
            return 0
        self.leases.pop(key, None)
        if key not in self.entries:
            return 0
        self._store(key, b"F" + self.entries[key][1:72] + b"\0\0", fence_ms, "f")  # of which nothing is known
        return 1

    def apply(self, who: str, may_create: bool, fence_ms: str, key: str, entry: bytes, token: bytes, life: str) -> str:
        """One change. The letters are those of ``apply.lua``."""
        live = bool(token) and self.leases.get(key) == token
        if who == "L" and not live:
            return "l"
        old = self.entries.get(key)
        may_serve = live or may_create
        if old is None:
            return self._served_or_fenced(key, entry, life, fence_ms, may_serve, "c" if live else "a")
        if old[2:10] != entry[2:10]:
            self._served_or_fenced(key, entry, life, fence_ms, may_serve, "d")
            return "d"
        if entry[:1] == b"N":
            return self._negative(key, old, entry, life, fence_ms)
        new, known = entry[10:40], old[10:40]
        if new < known:
            if live:
                del self.leases[key]
            return "s"
        if old[:1] in (b"F", b"N"):
            if new == known and old[:1] == b"F" and not may_serve:
                return "e"
            return self._served_or_fenced(key, entry, life, fence_ms, may_serve, "c" if live else "a")
        if new > known or (entry[:1] == b"T" and old[:1] == b"V"):
            return self._store(key, entry, life, "a")
        if who != "L":
            return "e"
        if entry[:1] == old[:1]:
            return self._store(key, entry, life, "r")
        self.leases.pop(key, None)
        return "e"

    def _negative(self, key: str, old: bytes, entry: bytes, life: str, fence_ms: str) -> str:
        """Time stands still here: a fence has all of its life before it."""
        if old[:1] == b"T":
            self.leases.pop(key, None)
            return "e"
        left = int(self.lives[key])
        if old[:1] == b"F" and old[HEADER_SIZE:] == b"V" and left and int(fence_ms) - left < int(life):
            self.leases.pop(key, None)
            return "s"
        longest = life if life == "0" else str(max(left, int(life)))
        return self._store(key, entry[:10] + old[10:40] + entry[40:], longest, "c")

    def _served_or_fenced(self, key: str, entry: bytes, life: str, fence_ms: str, may_serve: bool, letter: str) -> str:
        if may_serve:
            return self._store(key, entry, life, letter)
        return self._fence(key, entry, fence_ms)

    def _fence(self, key: str, entry: bytes, fence_ms: str) -> str:
        return self._store(key, b"F" + entry[1:72] + b"\0\0" + (b"V" if entry[:1] == b"V" else b""), fence_ms, "f")

    def _store(self, key: str, entry: bytes, life: str, letter: str) -> str:
        self.entries[key] = entry
        self.lives[key] = life
        self.leases.pop(key, None)
        return letter
