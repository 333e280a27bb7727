"""``headwater worker``."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def command(
    app: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the app is, such as billing.worker:app.")],
    log_level: Annotated[LogLevel, typer.Option(help="The least that is logged.")] = LogLevel.INFO,
) -> None:
    """Run the handlers and agents of an app until it is told to stop.

    SIGTERM and ^C drain: fetching stops, handlers finish what they have (HEADWATER_WORKER_DRAIN), offsets are
    committed, the group is left. Probes and metrics are served on HEADWATER_WORKER_HTTP.
    """
    from headwater_ops.stack.endpoints import environment
    from headwater_ops.worker import load, run

    env = environment()
    # The app reads its settings itself, when its module is imported: let it find the embedded stack there.
    for name in ("HEADWATER_KAFKA_BOOTSTRAP", "HEADWATER_REDIS_URL", "HEADWATER_REGISTRY_URL"):
        os.environ[name] = env.text(name)
    run(load(app), log_level)
