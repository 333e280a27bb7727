"""Handlers: functions that settle every record of their topics, in order per key, at least once."""
