"""Commands that concern every primary of a Cluster, and how their replies become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater_cache.steps import Command

__all__ = ["everywhere", "merged", "split"]


def everywhere(command: Command) -> bool:
    """Whether a command has no key and goes to all primaries."""
    return command[0] in ("INFO", "SCRIPT")


def split(commands: Sequence[Command]) -> tuple[list[int], list[int]]:
    """Positions of the commands for all primaries, and of those that have a key."""
    return (
        [at for at, command in enumerate(commands) if everywhere(command)],
        [at for at, command in enumerate(commands) if not everywhere(command)],
    )


def merged(command: Command, replies: Any) -> Any:
    """One reply for those of all primaries: of memory the most dangerous, of identities all of them."""
    if command[0] == "SCRIPT":
        return replies
    # One primary alone answers for itself, several by name.
    by_node = isinstance(next(iter(replies.values())), Mapping)
    nodes: list[Mapping[str, Any]] = list(replies.values()) if by_node else [replies]
    if command[1] == "memory":
        return next((node for node in nodes if node.get("maxmemory_policy") != "noeviction"), nodes[0])
    names = ("run_id", "master_replid")
    return {name: "+".join(sorted(str(node[name]) for node in nodes)) for name in names if name in nodes[0]}
