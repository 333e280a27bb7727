"""``/livez``, ``/readyz`` and ``/metrics`` of one process, on one address.

Faust's own web server would serve them too, beside pages that show tables to whoever asks; this one has nothing else.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder

from headwater_schemas.errors import SettingError

__all__ = ["Check", "StatusServer"]

Check = Callable[[], Awaitable[str | None]]
"""Why not; ``None`` when all is well."""


class StatusServer:
    """Answers a container's probes and Prometheus. Every method belongs to the event loop's thread.

    Args:
        address: ``host:port``; port 0 takes a free one, see ``url``.
        setting: the name of the setting that ``address`` came from, for error messages.
        alive: why this process should be restarted, if it should.
        ready: why no work can be expected of it now, if so.
        registry: the metrics that are shown.

    Raises:
        SettingError: ``address`` is not ``host:port``.
    """

    def __init__(
        self, address: str, *, setting: str, alive: Check, ready: Check, registry: CollectorRegistry = REGISTRY
    ) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65_535:
            raise SettingError(f"{setting}={address!r} must be host:port, such as 127.0.0.1:6066 (port 0: a free one)")
        self._host = host.strip("[]")
        self._port = int(port)
        self._setting = setting
        self._registry = registry
        pages = web.Application()
        pages.router.add_get("/livez", _page(alive))
        pages.router.add_get("/readyz", _page(ready))
        pages.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(pages, access_log=None)

    @property
    def url(self) -> str:
        """Where it is served, once ``start`` has returned."""
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingError: the address cannot be had.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as exc:
            await self._runner.cleanup()
            why = "is in use" if exc.errno == errno.EADDRINUSE else f"cannot be listened on ({exc.strerror or exc})"
            raise SettingError(
                f"{self._host}:{self._port} {why}: set {self._setting} to another host:port (port 0 takes a free one)"
            ) from exc

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


def _page(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def page(_: web.Request) -> web.Response:
        why_not = await check()
        return web.Response(text=f"{why_not or 'ok'}\n", status=200 if why_not is None else 503)

    return page
