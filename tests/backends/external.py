"""Servers that the settings name; whoever runs the tests has started them."""

from __future__ import annotations

from headwater_ops.stack import Endpoints, Service
from headwater_schemas.settings import Environment

__all__ = ["External"]


class External:
    """Refuses to guess: each server that is used must be named."""

    def up(self, *services: Service) -> Endpoints:
        env = Environment()
        return Endpoints(
            bootstrap=env.text("HEADWATER_KAFKA_BOOTSTRAP"),
            redis_url=env.text("HEADWATER_REDIS_URL"),
            registry_url=env.text("HEADWATER_REGISTRY_URL"),
        )
