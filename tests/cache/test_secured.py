"""TLS and ACLs on a real Redis: getting in, and what is said when one does not. A proxy before the server ends TLS."""

from __future__ import annotations

import asyncio
import gc
import shlex
import ssl
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from redis.exceptions import ConnectionError as RedisConnectionError

from cache.redis_server import RedisServer, free_port
from cache.table import Table
from certificates import authority
from headwater_cache import EntityCache, NearPolicy, RedisSettings
from headwater_cache.guard import translate
from headwater_cache.testing import MemoryLog
from headwater_cache.topology import async_client, sync_client
from headwater_ops.doctor.redis import check_redis
from headwater_ops.testing.proxy import Proxy
from headwater_schemas.errors import CacheUnavailable, HeadwaterError, NotPermitted, SettingError
from headwater_schemas.settings import Environment

# redis-py does not wait for the end of a connection that failed; by TLS that takes an exchange, and the loop may be
# gone by then.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function _Selector:pytest.PytestUnraisableExceptionWarning"
)
DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"


@dataclass(frozen=True)
class Certificates:
    """``ca`` signed what the server shows (for 127.0.0.1) and ``client``, ``other_ca`` did not; it signed ``other``."""

    ca: str
    other_ca: str
    client: str
    other: str
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ca, other_ca, keystore, other = (folder / f"{name}.pem" for name in ("ca", "other_ca", "redis", "other"))
    authority(ca, keystore)
    authority(other_ca, other)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keystore)
    return Certificates(str(ca), str(other_ca), str(keystore), str(other), context)


@pytest.fixture(scope="module", autouse=True)
def swept() -> Iterator[None]:
    """What such connections leave is no later test's."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def tls(own: RedisServer, certificates: Certificates) -> Iterator[Proxy]:
    """The same server, by TLS."""
    with Proxy(own.port, tls=certificates.context) as proxy:
        yield proxy


async def error_of(settings: RedisSettings, how: str) -> HeadwaterError:
    """Of the first use."""
    async with EntityCache[int]("flights", settings, mode="cache", source=Table()) as cache:
        ways: dict[str, Callable[[], object]] = {
            "check": cache.check,
            "acheck": cache.acheck,
            "get": lambda: cache.get("k"),
            "aget": lambda: cache.aget("k"),
        }
        try:
            done = ways[how]()
            if isinstance(done, Awaitable):
                await done
        except HeadwaterError as exc:
            return exc
    raise AssertionError("it got in")


EVERY_WAY = pytest.mark.parametrize("how", ["check", "acheck", "get", "aget"])


async def test_a_cache_works_over_tls(tls: Proxy, certificates: Certificates) -> None:
    """Blocking, asyncio, and the channel of the near cache."""
    settings = RedisSettings(f"rediss://{tls.address}/0", timeout=5, read_timeout=5, ca=certificates.ca)
    near = NearPolicy(ttl="10m")
    async with EntityCache[int]("flights", settings, log=MemoryLog()) as view:
        with EntityCache[int]("flights", settings, near=near) as other:
            view.put("k", 1)
            assert other.get("k") == await view.aget("k") == 1
            await view.aput("k", 2)
            deadline = time.monotonic() + 10
            while other.get("k") != 2:
                assert time.monotonic() < deadline, "the near cache was not told"
                await asyncio.sleep(0.01)


async def test_a_cluster_works_over_tls(tmp_path: Path, certificates: Certificates) -> None:
    """Also where a node names another address: it is reached by TLS as well."""
    with Proxy(tls=certificates.context) as proxy:
        cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        server = RedisServer(tmp_path, *cluster, "--cluster-announce-port", str(proxy.port))
        proxy.upstream = server.port
        try:
            with server.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                deadline = time.monotonic() + 15
                while client.cluster("info")["cluster_state"] != "ok":
                    assert time.monotonic() < deadline, "the cluster did not form"
                    await asyncio.sleep(0.05)
            url = f"rediss+cluster://{proxy.address}"
            settings = RedisSettings(url, timeout=5, read_timeout=5, ca=certificates.ca)
            async with EntityCache[int]("flights", settings, log=MemoryLog()) as view:
                view.put("k", 1)
                assert view.get("k") == await view.aget("k") == 1
            error = await error_of(RedisSettings(url, timeout=5, ca=certificates.other_ca), "check")
            assert "HEADWATER_REDIS_CA" in str(error)
        finally:
            server.kill()


def test_sentinels_are_reached_by_tls_too(certificates: Certificates) -> None:
    """As the primary that they name."""
    settings = RedisSettings("rediss+sentinel://127.0.0.1:1/flights", ca=certificates.ca)
    for client in (sync_client(settings), async_client(settings)):
        pool: Any = client.connection_pool  # type: ignore[union-attr]  # no Cluster
        for of in (pool, pool.sentinel_manager.sentinels[0].connection_pool):
            assert "SSL" in of.connection_class.__name__
            assert of.connection_kwargs["ssl_ca_certs"] == certificates.ca


@EVERY_WAY
async def test_a_certificate_that_is_not_trusted_says_which_setting(
    tls: Proxy, certificates: Certificates, how: str
) -> None:
    """Signed by nobody whom we know, or by another, or for another host. The source does not hide it."""
    settings = [
        RedisSettings(f"rediss://{tls.address}/0", timeout=5),
        RedisSettings(f"rediss://{tls.address}/0", timeout=5, ca=certificates.other_ca),
        RedisSettings(f"rediss://localhost:{tls.port}/0", timeout=5, ca=certificates.ca),
    ]
    for each in settings:
        error = await error_of(each, how)
        assert type(error) is SettingError
        assert "HEADWATER_REDIS_CA" in str(error)
        assert "name that its certificate holds" in str(error)


@pytest.mark.parametrize("ca", ["missing", "no certificate"])
def test_a_ca_that_can_not_be_read_is_refused_where_it_is_set(tmp_path: Path, ca: str) -> None:
    """Not at the first connection."""
    path = tmp_path / "ca.pem"
    if ca == "no certificate":
        path.write_text("hello")
    env = Environment({"HEADWATER_REDIS_URL": "rediss://127.0.0.1", "HEADWATER_REDIS_CA": str(path)})

    with pytest.raises(SettingError, match=r"HEADWATER_REDIS_CA: .*ca\.pem"):
        RedisSettings.from_env(env)


def test_a_ca_without_tls_is_refused(certificates: Certificates) -> None:
    """Who sets it believes that the connection is secured."""
    with pytest.raises(SettingError, match="begin it with rediss"):
        RedisSettings("redis://127.0.0.1", ca=certificates.ca)


async def test_a_server_may_ask_for_a_certificate(own: RedisServer, certificates: Certificates) -> None:
    """Mutual TLS: with the right one one gets in, with none or another's not. The key may have a file of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.client)
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with Proxy(own.port, tls=context) as proxy:
        url, ca = f"rediss://{proxy.address}/0", certificates.ca
        for key in (None, certificates.client):
            settings = RedisSettings(url, timeout=5, read_timeout=5, ca=ca, cert=certificates.client, key=key)
            async with EntityCache[int]("flights", settings, log=MemoryLog()) as view:
                view.put("k", 1)
                assert view.get("k") == await view.aget("k") == 1
        for cert in (None, certificates.other):
            error = await error_of(RedisSettings(url, timeout=5, ca=ca, cert=cert), "check")
            assert isinstance(error, SettingError | CacheUnavailable)


@pytest.mark.parametrize(
    "text", ["[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert", "[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert"]
)
def test_a_certificate_of_ours_that_is_refused_says_which_setting(text: str) -> None:
    """When the server says so before it hangs up."""
    error = translate(RedisConnectionError(f"Error while reading from 127.0.0.1:6379 : (1, '{text}')"))

    assert type(error) is SettingError
    assert "HEADWATER_REDIS_CERT" in str(error)


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        ("missing", None, r"HEADWATER_REDIS_CERT: .*missing"),
        ("ca", None, "HEADWATER_REDIS_CERT: .* pass a certificate and its own private key"),
        ("client", "other", "HEADWATER_REDIS_CERT: .* pass a certificate and its own private key"),
        ("encrypted", None, "HEADWATER_REDIS_CERT: .* not encrypted"),
        (None, "client", "HEADWATER_REDIS_KEY is set without HEADWATER_REDIS_CERT"),
    ],
)
def test_a_certificate_of_ours_that_can_not_be_used_is_refused_where_it_is_set(
    certificates: Certificates, tmp_path: Path, cert: str | None, key: str | None, said: str
) -> None:
    """Not at the first connection; and nobody is asked for a password."""
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(_encrypted(Path(certificates.client).read_bytes()))
    files = {
        "missing": str(tmp_path / "missing"),
        "ca": certificates.ca,
        "client": certificates.client,
        "other": certificates.other,
        "encrypted": str(encrypted),
    }
    names = {"HEADWATER_REDIS_CERT": cert, "HEADWATER_REDIS_KEY": key}
    env = {name: files[file] for name, file in names.items() if file is not None}

    with pytest.raises(SettingError, match=said):
        RedisSettings.from_env(Environment({"HEADWATER_REDIS_URL": "rediss://127.0.0.1", **env}))


@EVERY_WAY
async def test_wrong_credentials_say_so(own: RedisServer, tls: Proxy, certificates: Certificates, how: str) -> None:
    """A wrong password, an unknown user, none at all; with TLS or without. No password is shown."""
    with own.client() as client:
        client.config_set("requirepass", "right")
    for user in (":wr0ng@", "nobody:wr0ng@", ""):
        for settings in (
            RedisSettings(f"redis://{user}127.0.0.1:{own.port}/0", timeout=5),
            RedisSettings(f"rediss://{user}{tls.address}/0", timeout=5, ca=certificates.ca),
        ):
            error = await error_of(settings, how)
            assert type(error) is NotPermitted
            assert "HEADWATER_REDIS_URL" in str(error)
            assert "wr0ng" not in str(error)


def test_the_documented_user_is_enough(own: RedisServer) -> None:
    """Of a view and of a cache; the command is taken from docs/deploy.md."""
    command = DEPLOY.read_text().partition("redis-cli ACL SETUSER ")[2].partition("```")[0]
    with own.client() as client:
        client.execute_command("ACL", "SETUSER", *shlex.split(command.replace("\\\n", "")))
    url = RedisSettings(f"redis://headwater:long%20secret@127.0.0.1:{own.port}/0", timeout=5)
    with EntityCache("flight", url, mode="cache", source=Table()) as cache:
        cache.put("k", 1)
        assert cache.touch("k")
        assert cache.get_many(["k", "none"]) == {"k": 1}
        assert cache.invalidate("k")
        cache.invalidate_tags("t")
        assert cache.get("k") == 1
        assert cache.explain("k").state == "V"
    with EntityCache[int]("flight", url, log=MemoryLog()) as view:
        view.put("v", 1)
        view.mark_ready([0], total=1)
        assert view.get("v") == 1
        assert view.get("none") is None
    with EntityCache[int]("plane", url) as other, pytest.raises(NotPermitted, match=r"~\{plane:"):
        other.check()


@EVERY_WAY
@pytest.mark.parametrize(
    "grant", ["~* +@all -@scripting", "~* +@all -evalsha", "~* +@all -script|load", "~other:* +@all"]
)
async def test_a_user_who_may_not_run_the_scripts_is_refused(own: RedisServer, grant: str, how: str) -> None:
    """At the first use, also at a read that could go to the source; the error says what to grant."""
    allow(own, grant)
    error = await error_of(as_app(own), how)

    assert type(error) is NotPermitted
    assert "+evalsha +script|load" in str(error)
    assert "~{flights:*" in str(error)


async def test_a_right_that_is_taken_away_later_is_told(own: RedisServer) -> None:
    """Of what can not be done without Redis."""
    allow(own, "~* +@all")
    async with EntityCache("flights", as_app(own), mode="cache", source=Table()) as cache:
        cache.check()
        await cache.acheck()
        allow(own, "-evalsha")
        with pytest.raises(NotPermitted, match="evalsha"):
            cache.invalidate("k")
        with pytest.raises(NotPermitted, match="evalsha"):
            await cache.ainvalidate("k")


@pytest.mark.parametrize("grant", ["~* +@all -hincrby", "~{flights:1:* ~flights:* +@all"], ids=["command", "key"])
def test_what_a_script_may_not_do_is_told(own: RedisServer, grant: str) -> None:
    """Redis words it otherwise than of a command."""
    allow(own, grant)
    with EntityCache("flights", as_app(own), mode="cache", source=Table()) as cache:
        cache.check()
        with pytest.raises(NotPermitted, match="refuses an operation to this user"):
            cache.invalidate_tags("t")


def test_the_doctor_gets_in_by_tls_and_says_what_is_wrong(
    own: RedisServer, tls: Proxy, certificates: Certificates
) -> None:
    """With the rights of the documentation; and names the CA if it is wrong."""
    allow(own, "~{flights:* ~flights:* -@all +evalsha +script|load +info +time +hello +select +ping")
    url = f"rediss://app:pw@{tls.address}/0"
    found = {}
    for ca in (certificates.ca, certificates.other_ca):
        env = {"HEADWATER_REDIS_URL": url, "HEADWATER_REDIS_CA": ca, "HEADWATER_REDIS_TIMEOUT": "5s"}
        found[ca] = list(check_redis(Environment(env)))

    assert [finding.status for finding in found[certificates.ca]] == ["ok"] * 4
    (refused,) = found[certificates.other_ca]
    assert "HEADWATER_REDIS_CA" in str(refused)
    assert "pw" not in str(refused)


def _encrypted(pem: bytes) -> bytes:
    """The same, with its key under a password."""
    encryption = serialization.BestAvailableEncryption(b"secret")
    key = serialization.load_pem_private_key(pem, None)
    certificate = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.PEM)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption) + certificate


def allow(server: RedisServer, rights: str) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">pw", *rights.split())


def as_app(server: RedisServer) -> RedisSettings:
    return RedisSettings(f"redis://app:pw@127.0.0.1:{server.port}/0", timeout=5)
