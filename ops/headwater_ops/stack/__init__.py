"""The embedded stack: real Kafka, Redis and schema registry on this machine, for development, tests and the demo."""

from headwater_ops.stack.endpoints import Endpoints, environment
from headwater_ops.stack.stack import PartStatus, Service, Stack

__all__ = ["Endpoints", "PartStatus", "Service", "Stack", "environment"]
