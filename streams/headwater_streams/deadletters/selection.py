"""Which dead letters are meant, and how they are told together by kind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from headwater_schemas.errors import UsageError
from headwater_streams.deadletters.letter import DeadLetter, LetterId
from headwater_streams.readable import instant

__all__ = ["Kind", "Selection", "kinds"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Dead letters that fit everything that is given; nothing given means all.

    Args:
        topic: the dead-letter topic.
        fingerprint: the kind of error; the beginning of it will do.
        key: the record key, as text.
        reason: decode, schema, handler, timeout, expired or too-large.
        since: died at or after this time (seconds since the epoch).
        until: died before this time.
        letter: just this one.

    Raises:
        UsageError: ``since`` is not before ``until``, or ``letter`` stands in another topic.
    """

    topic: str | None = None
    group: str | None = None
    handler: str | None = None
    fingerprint: str | None = None
    key: str | None = None
    reason: str | None = None
    since: float | None = None
    until: float | None = None
    letter: LetterId | None = None

    def __post_init__(self) -> None:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise UsageError(f"since ({instant(self.since)}) must be before until ({instant(self.until)})")
        if self.letter is not None and self.topic not in (None, self.letter.topic):
            raise UsageError(f"{self.letter} does not stand in {self.topic}")

    def __str__(self) -> str:
        """What is given, for people and for the audit."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = {
            name: instant(value) if name in ("since", "until") else str(value)
            for name, value in given.items()
            if value is not None
        }
        return " ".join(f"{name}={value}" for name, value in shown.items()) or "all"

    def takes(self, letter: DeadLetter) -> bool:
        """Whether this letter is meant."""
        key = None if self.key is None else self.key.encode("utf-8", "surrogateescape")
        return (
            (self.letter is None or letter.id == self.letter)
            and (self.topic is None or letter.id.topic == self.topic)
            and (self.group is None or letter.group == self.group)
            and (self.handler is None or letter.handler == self.handler)
            and (self.fingerprint is None or (letter.fingerprint or "").startswith(self.fingerprint))
            and (key is None or letter.key == key)
            and (self.reason is None or letter.reason == self.reason)
            and (self.since is None or letter.died_at >= self.since)
            and (self.until is None or letter.died_at < self.until)
        )


@dataclass(slots=True)
class Kind:
    """The dead letters of one fingerprint in one topic. Times in seconds since the epoch.

    Attributes:
        open: those that were neither redriven nor edited.
        sample: the newest one.
    """

    topic: str
    fingerprint: str | None
    group: str | None
    handler: str | None
    reason: str | None
    exception_class: str | None
    exception_message: str | None
    count: int
    open: int
    first_seen: float
    last_seen: float
    sample: LetterId


def kinds(letters: Iterable[tuple[DeadLetter, bool]]) -> list[Kind]:
    """Letters, each with whether it is open, told together; the kind with the most open ones first."""
    found: dict[tuple[str, str | None], Kind] = {}
    for letter, is_open in letters:
        kind = found.get((letter.id.topic, letter.fingerprint))
        if kind is None:
            kind = found[letter.id.topic, letter.fingerprint] = Kind(
                topic=letter.id.topic,
                fingerprint=letter.fingerprint,
                group=letter.group,
                handler=letter.handler,
                reason=letter.reason,
                exception_class=letter.exception_class,
                exception_message=letter.exception_message,
                count=0,
                open=0,
                first_seen=letter.died_at,
                last_seen=letter.died_at,
                sample=letter.id,
            )
        kind.count += 1
        kind.open += is_open
        kind.first_seen = min(kind.first_seen, letter.died_at)
        if letter.died_at >= kind.last_seen:
            kind.last_seen, kind.sample = letter.died_at, letter.id
            kind.exception_message = letter.exception_message
    return sorted(found.values(), key=lambda kind: (-kind.open, -kind.count, kind.topic))
