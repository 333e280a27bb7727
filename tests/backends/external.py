"""Servers that the settings name: whoever runs the tests has started them."""

from __future__ import annotations

from headwater_ops.stack import Endpoints
from headwater_schemas.settings import Environment

__all__ = ["external"]


def external() -> Endpoints:
    env = Environment()
    return Endpoints(
        bootstrap=env.text("HEADWATER_KAFKA_BOOTSTRAP"),
        redis_url=env.text("HEADWATER_REDIS_URL"),
        registry_url=env.text("HEADWATER_REGISTRY_URL"),
    )
