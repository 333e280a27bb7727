"""Owners: which assignments of a partition could write to its retry topics, each from which offset on.

A worker that has lost a partition without knowing it, frozen or cut off, still writes to the partition's tiers and
parking log, at any time and beside its successors. Each owner therefore begins by committing, to the group, its epoch
and the end of each of these logs; the brokers refuse that commit of a worker that is not the owner (its generation or
member epoch is old). From there on only what is marked with it counts, until the next owner's beginning. It is the
fencing of a log by epochs as Kafka's own replicas do it (KIP-101), with the group's coordinator as the authority.

An owner that never came to commit is not in the list, and neither is anything settled that it wrote. The coordinator
checks who commits, not of which partitions: a commit that a client sends again after it has rejoined would pass.
librdkafka does not send ours again with a later epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

__all__ = ["Owners", "owner_at", "since", "succeeded"]

Owners = tuple[tuple[int, bytes], ...]
"""The first offset and the epoch of each, in the order of their offsets."""

_MOST = 40  # owners, that a commit's metadata always holds; of what older ones wrote all is taken


def succeeded(owners: Owners, start: int, epoch: bytes) -> Owners:
    """With one more owner, from ``start`` on. Whoever began there or later has no part any more."""
    return (*(owner for owner in owners if owner[0] < start), (start, epoch))[-_MOST:]


def since(owners: Owners, offset: int) -> Owners:
    """Without those that are over before ``offset``."""
    over = sum(1 for _, (following, _) in pairwise(owners) if following <= offset)
    return owners[over:]


def owner_at(owners: Owners, offset: int) -> bytes | None:
    """The epoch of what counts at this offset; ``None`` if that is not known."""
    place = bisect_right(owners, offset, key=lambda owner: owner[0])
    return owners[place - 1][1] if place else None
