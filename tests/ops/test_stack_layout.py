"""What a stack's state folder remembers."""

from __future__ import annotations

import base64
from pathlib import Path

from headwater_ops.stack.kafka import new_id
from headwater_ops.stack.layout import Layout


def test_a_layout_reads_as_it_was_saved(tmp_path: Path) -> None:
    layout = Layout("id", {"broker-2": {"client": 2}, "broker-1": {"client": 1}, "redis": {"client": 3}})

    layout.save(tmp_path / "new")

    assert Layout.load(tmp_path / "new") == layout
    assert layout.brokers == (1, 2)


def test_a_folder_without_a_layout_has_none(tmp_path: Path) -> None:
    assert Layout.load(tmp_path) is None


def test_a_cluster_id_is_never_taken_for_an_option() -> None:
    """Kafka's tool reads an id that begins with a dash as one; one random id in 64 would."""
    made = [new_id() for _ in range(2000)]

    assert not any(text.startswith("-") for text in made)
    assert all(len(base64.urlsafe_b64decode(text + "==")) == 16 for text in made)
