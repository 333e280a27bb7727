"""The trace context of the running code, where OpenTelemetry's API is installed; no dependency of ours."""

from __future__ import annotations

__all__ = ["current_traceparent"]

try:
    from opentelemetry.context import get_current
    from opentelemetry.trace import get_current_span
except ImportError:

    def current_traceparent() -> str | None:
        """Always ``None``: OpenTelemetry is not installed."""
        return None

else:

    def current_traceparent() -> str | None:
        """The W3C ``traceparent`` of the active span; ``None`` when there is none."""
        if not get_current():  # the common case, at a third of the price of asking for the span
            return None
        span = get_current_span().get_span_context()
        if not span.is_valid:
            return None
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
