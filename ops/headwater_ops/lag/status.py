"""Whether a consumer works, judged from its commits over a window of time instead of from a lag threshold.

The rules are those of Burrow (LinkedIn, "Consumer Lag Evaluation Rules"), with two changes. Burrow sees each commit
with its time, since it reads the brokers' internal offsets topic; we ask for the offsets at an interval, which needs no
right to read that topic. And Burrow counts silence from the last commit, so a record on a topic that was quiet for an
hour looks like an hour of silence; here silence counts only while there is something to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

__all__ = ["Observation", "Status", "judge"]


class Status(IntEnum):
    """What a partition's consumer does; the number is the metric's value."""

    OK = 0
    WARN = 1
    """It reads, and the lag has not shrunk once in the whole window: it is too slow."""
    STOP = 2
    """There is something to read, nobody has the partition, nothing was committed for the whole window."""
    STALL = 3
    """There is something to read, a member has the partition, and it has committed no progress for the whole window."""
    REWIND = 4
    """The committed offset went back within the window: somebody reset it, or commits arrive out of order."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a partition: the group's committed offset, then the end of the log."""

    committed: int
    end: int

    @property
    def lag(self) -> int:
        """Records between them."""
        return max(0, self.end - self.committed)


def judge(window: Sequence[Observation], size: int, *, owned: bool) -> Status:
    """The status of one partition. Pure.

    Args:
        window: the latest looks, oldest first, at equal intervals.
        size: how many looks fill the window; with fewer only a rewind is called.
        owned: whether a member of the group has the partition now.
    """
    if any(later.committed < earlier.committed for earlier, later in pairwise(window)):
        return Status.REWIND
    if len(window) < size or any(look.lag == 0 for look in window):
        return Status.OK  # too early to tell; or it was up to date a moment ago
    if window[0].committed == window[-1].committed:
        return Status.STALL if owned else Status.STOP
    if all(later.lag >= earlier.lag for earlier, later in pairwise(window)):
        return Status.WARN
    return Status.OK
