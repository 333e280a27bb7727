"""The projection as an app of its own: ``headwater worker headwater_tasks.projector:app``."""

from headwater_streams import StreamApp
from headwater_tasks.projection import project

__all__ = ["app"]

app = StreamApp("headwater-tasks")
project(app)
