"""A TCP proxy before a server, that a test makes slow, or a black hole, or break connections."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from contextlib import suppress
from typing import Self

from headwater_ops.stack.ports import HOST

__all__ = ["Proxy"]

_CHUNK = 1 << 16
_POLL = 0.01
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing drops what is unsent and sends RST


class Proxy:
    """Listens on ``port`` of this machine at once, in a thread of its own, until the ``with`` block ends.

    Set the attributes from any thread.

    Args:
        upstream: the port it forwards to; may be set later, until then connections are reset.
        tls: clients speak TLS, which ends here: a context with a certificate. The server need not have TLS.

    Attributes:
        delay: seconds before each chunk of an answer; what arrives meanwhile goes on as one chunk.
        hole: nothing passes, no end of a connection either. As with lost packets nothing is lost of the stream: what
            was sent is delivered, late, when the hole is gone. The kernel still accepts connections.
    """

    def __init__(self, upstream: int | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.upstream = upstream
        self._tls = tls
        self.delay = 0.0
        self.hole = False
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"{HOST}:{self.port}"
        self._open: set[asyncio.StreamWriter] = set()
        self._relays: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Reset every connection and listen no more."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def reset(self) -> None:
        """Break every connection with a TCP reset; new ones are served."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(self._reset_all)
        self._loop.call_soon_threadsafe(done.set)
        done.wait()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accepted, sock=self._listener)
        await self._stop.wait()
        server.close()
        self.hole = False
        self._reset_all()
        if self._relays:
            await asyncio.wait(self._relays)

    def _accepted(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        relay = asyncio.create_task(self._relay(reader, client))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self._stop.is_set():
            self._reset(client)
            return
        self._open.add(client)
        try:
            await self._passage()
            if self._tls is not None:
                await client.start_tls(self._tls)
            answers, server = await asyncio.open_connection(HOST, self.upstream)
        except OSError:  # nobody listens: the client is to know; or it does not trust us
            self._reset(client)
            return
        self._open.add(server)
        pumps = [
            asyncio.create_task(self._pump(reader, server, answers=False)),
            asyncio.create_task(self._pump(answers, client, answers=True)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for writer in (client, server):
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()  # TLS ends with an exchange
            self._open.discard(writer)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        try:
            data = b" "
            while data:
                data = await source.read(_CHUNK)
                if answers and self.delay:
                    await asyncio.sleep(self.delay)
                await self._passage()
                sink.write(data)
                await sink.drain()
        except OSError:  # the other end broke the connection: so does this one
            self._reset(sink)

    async def _passage(self) -> None:
        while self.hole:  # noqa: ASYNC110 - set from other threads
            await asyncio.sleep(_POLL)

    def _reset_all(self) -> None:
        for writer in list(self._open):
            self._reset(writer)

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        if not writer.transport.is_closing():
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
