"""Seeded fault injection on real processes and a real broker, judged from outside."""
