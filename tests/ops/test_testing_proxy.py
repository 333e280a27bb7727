"""The proxy of the faults: what passes, what does not, and what its client sees."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from headwater_ops.testing.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that answers what it is sent."""

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        with client, suppress(ConnectionError):
            while data := client.recv(4096):
                client.sendall(data)

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
        yield client


def test_a_hole_is_silent_and_delivers_late(proxy: Proxy, client: socket.socket) -> None:
    """As with packets that are lost for a while: TCP sends them again, in order."""
    proxy.hole = True
    client.sendall(b"late")
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(4)

    proxy.hole = False

    client.settimeout(5)
    assert client.recv(4) == b"late"


def test_a_reset_breaks_connections_and_serves_new_ones(proxy: Proxy, client: socket.socket) -> None:
    proxy.reset()

    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
        again.sendall(b"again")
        assert again.recv(5) == b"again"


def test_a_delay_is_before_each_answer(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay = 0.2
    began = time.monotonic()

    client.sendall(b"slow")

    assert client.recv(4) == b"slow"
    assert time.monotonic() - began >= 0.2


def test_a_client_is_reset_where_nobody_listens(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        proxy.upstream = unused.getsockname()[1]

    with pytest.raises(ConnectionResetError):  # at once, or when it reads
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            client.recv(1)
