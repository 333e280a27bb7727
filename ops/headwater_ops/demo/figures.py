"""What a run of the demo shows at its end: one table for people, one object for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.table import Table

__all__ = ["Figures", "quantile", "table"]


@dataclass(slots=True)
class Figures:
    """Counted, not estimated; where from is said in ``docs/demo.md``. Times are seconds unless named otherwise."""

    flights: int = 0
    events_sent: int = 0
    events_settled: int = 0
    retried: int = 0
    dead_letters: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    cache_entries: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    replay_seconds: float = 0.0
    total_seconds: float = 0.0
    events_per_second: float = 0.0
    visible_samples: int = 0
    emit_to_visible_p50_ms: float | None = None
    emit_to_visible_p99_ms: float | None = None
    oracle_checks: int = 0
    oracle_differences: int = 0
    seconds_by_stage: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain data, rounded to what is meant."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def quantile(samples: list[float], share: float) -> float | None:
    """The smallest sample that at least ``share`` of the samples do not exceed; ``None`` without samples."""
    if not samples:
        return None
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def table(figures: Figures) -> Table:
    """The table that ends a run."""
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    rows.add_column(style="bold")
    rows.add_column(justify="right")
    for name, value in (
        ("flights replayed", f"{figures.flights:,}"),
        ("events sent", f"{figures.events_sent:,}"),
        ("records settled", f"{figures.events_settled:,}"),
        ("retried", f"{figures.retried:,}"),
        ("dead letters", f"{figures.dead_letters:,}"),
        *((f"tasks {state}", f"{count:,}") for state, count in sorted(figures.tasks.items())),
        ("keys in Redis", f"{figures.cache_entries:,}"),
        ("cache hits / misses", f"{figures.cache_hits:,} / {figures.cache_misses:,}"),
        ("events per second", f"{figures.events_per_second:,.0f}"),
        ("emit → visible, p50", _milliseconds(figures.emit_to_visible_p50_ms)),
        ("emit → visible, p99", _milliseconds(figures.emit_to_visible_p99_ms)),
        ("replay / whole run", f"{figures.replay_seconds:.1f} s / {figures.total_seconds:.1f} s"),
        ("checked against the oracle", f"{figures.oracle_checks:,}"),
        ("differences", f"{figures.oracle_differences:,}"),
    ):
        rows.add_row(name, value)
    return rows


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return round(value, 1) if isinstance(value, float) else value
