"""What a state folder holds: the cluster's id and the port of every listener. Kept over restarts, so addresses stay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from headwater_ops.stack.errors import StateMismatch

__all__ = ["Layout"]

_FILE = "layout.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """``ports`` maps part name to listener to port."""

    cluster_id: str
    ports: dict[str, dict[str, int]]

    @property
    def brokers(self) -> tuple[int, ...]:
        """Node ids, ascending."""
        return tuple(sorted(int(name.removeprefix("broker-")) for name in self.ports if name.startswith("broker-")))

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The layout of a folder, or ``None`` when it has none yet.

        Raises:
            StateMismatch: the file is damaged.
        """
        try:
            text = (folder / _FILE).read_text()
        except FileNotFoundError:
            return None
        try:
            content = json.loads(text)
            return cls(cluster_id=content["cluster_id"], ports=content["ports"])
        except (ValueError, KeyError, TypeError) as exc:
            raise StateMismatch(f"{folder / _FILE} is damaged: headwater down --wipe removes the state") from exc

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{_FILE}.partial"
        partial.write_text(json.dumps({"cluster_id": self.cluster_id, "ports": self.ports}, indent=2))
        partial.replace(folder / _FILE)
