"""Running the API as this process."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable
from pathlib import Path

import uvicorn
from fastapi import APIRouter

from headwater_schemas.errors import SettingError
from headwater_schemas.settings import Environment
from headwater_tasks.client import TaskClient
from headwater_tasks.http.access import is_loopback
from headwater_tasks.http.app import create_app
from headwater_tasks.http.keys import ApiKeys

__all__ = ["serve"]

logger = logging.getLogger(__name__)

_DRAIN = 10


def serve(env: Environment, *, routers: Iterable[APIRouter] = ()) -> None:
    """Serve on ``HEADWATER_API_HTTP`` until a signal ends it. Blocks.

    Raises:
        SettingError: the address or the key file is wrong, or no keys are set and the address is not this machine's.
        RegistryUnavailable: the registry does not answer.
    """
    host, port = _address(env)
    keys = _keys(env, host)
    if keys is None:
        logger.warning("HEADWATER_API_KEYS is not set: only this machine may call, as localhost, and may do everything")
    # Uvicorn raises the signal again when it has shut down; then there is nothing left to end.
    signal.signal(signal.SIGTERM, lambda *_: None)
    app = create_app(TaskClient.from_env(env, source="headwater-api"), keys, routers=routers)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_DRAIN,
    )


def _address(env: Environment) -> tuple[str, int]:
    text = env.text("HEADWATER_API_HTTP")
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise SettingError(f"HEADWATER_API_HTTP={text!r} must be host:port, such as 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def _keys(env: Environment, host: str) -> ApiKeys | None:
    path = env.get("HEADWATER_API_KEYS")
    if path is not None:
        return ApiKeys.load(Path(path))
    if not is_loopback(host):
        raise SettingError(
            f"HEADWATER_API_HTTP is {host}, which others can reach: set HEADWATER_API_KEYS to a key file "
            "(headwater api new-key makes keys), or serve on 127.0.0.1"
        )
    return None
