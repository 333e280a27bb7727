"""Parts of a cache for tests that drive them by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from io import BytesIO

import msgspec

from headwater_cache.settings import CachePolicy
from headwater_cache.space import Mode, Space
from headwater_schemas.clock import Clock


def fixed_space(name: str, mode: Mode, policy: CachePolicy, clock: Clock, seed: int = 0) -> Space:
    """A namespace that counts as checked, in epoch 1, with a seeded random."""
    space = Space(name, mode, "log", policy, clock, fixed_epoch=1, random=random.Random(seed))
    space._use(1)
    space.checked, space._look_at = True, float("inf")
    return space


def fields_of(args: Sequence[str | bytes | int]) -> list[bytes]:
    """The fields in the arguments of an APPLY."""
    joined, sizes = args[3:]
    assert isinstance(joined, bytes)
    assert isinstance(sizes, bytes)
    source = BytesIO(joined)
    return [source.read(size) for size in msgspec.msgpack.decode(sizes, type=list[int])]
