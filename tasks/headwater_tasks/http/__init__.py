"""The HTTP API: ``create_app`` makes a FastAPI application of a ``TaskClient``; ``serve`` runs it by the settings."""

from headwater_tasks.http.app import create_app
from headwater_tasks.http.keys import ApiKeys, Scope
from headwater_tasks.http.server import serve

__all__ = ["ApiKeys", "Scope", "create_app", "serve"]
