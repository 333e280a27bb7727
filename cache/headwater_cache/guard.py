"""The border to redis-py: its errors as ours, and what they tell the breaker."""

from __future__ import annotations

from redis import exceptions, sentinel
from redis.asyncio import sentinel as async_sentinel

from headwater_cache.breaker import Breaker
from headwater_cache.errors import CacheFull, NoFreeConnection
from headwater_schemas.errors import CacheUnavailable, HeadwaterError, NotPermitted, SettingError, UsageError

__all__ = ["FAILURES", "Guard", "translate"]

FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
"""What redis-py raises."""
_REFUSALS = ("NOPERM", "ACL failure in script", "can't run this command", "can't access at least one of the keys")
"""The first is a command's, the others are a script's: Valkey's and newer Redis's, older Redis's."""
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"  # redis-py keeps OpenSSL's text, whatever it wraps it in
_UNWANTED = ("ALERT_CERTIFICATE", "ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_UNSUPPORTED_CERTIFICATE")
"""What a server tells that does not accept our certificate; after TLS 1.3's handshake, so it may also just hang up."""


def translate(exc: Exception) -> HeadwaterError:
    """The error of ours for one of redis-py's; the most specific class wins."""
    match exc:
        case exceptions.AuthenticationError() | exceptions.AuthorizationError():
            return NotPermitted(f"Redis refuses the user or password in HEADWATER_REDIS_URL: {exc}")
        case exceptions.NoPermissionError():
            return NotPermitted(
                f"Redis refuses an operation to this user (needs the keys of the namespace, EVALSHA, SCRIPT): {exc}"
            )
        case exceptions.OutOfMemoryError():
            return CacheFull(f"Redis is at maxmemory and refuses writes: {exc}")
        case exceptions.MaxConnectionsError():
            return NoFreeConnection(
                f"no free connection to Redis in time; raise HEADWATER_REDIS_MAX_CONNECTIONS or send less: {exc}"
            )
        case sentinel.MasterNotFoundError() | async_sentinel.MasterNotFoundError() if _refused_by_sentinels(exc):
            return NotPermitted(
                "the Sentinels refuse user or password; theirs (not Redis's) are HEADWATER_REDIS_SENTINEL_USERNAME and "
                "HEADWATER_REDIS_SENTINEL_PASSWORD"
            )
        case exceptions.RedisError() | exceptions.RedisClusterException() | OSError() if error := _of_certificates(exc):
            return error
        case exceptions.TimeoutError() | TimeoutError():
            return CacheUnavailable(f"Redis did not answer in time: {exc}")
        case exceptions.ConnectionError() | exceptions.ReadOnlyError() | exceptions.ClusterError() | OSError():
            return CacheUnavailable(f"Redis is not reachable: {exc}")
        case exceptions.ResponseError():
            return _of_reply(exc)
    return CacheUnavailable(f"Redis failed: {exc}")


def _refused_by_sentinels(exc: Exception) -> bool:
    return any(word in str(exc) for word in ("Authentication", "NOAUTH", "WRONGPASS", "NOPERM"))


def _of_certificates(exc: Exception) -> SettingError | None:
    text = str(exc)
    if _UNTRUSTED in text:
        return SettingError(
            f"Redis's certificate is not trusted: {text}; name the certificates (PEM) that signed it in "
            "HEADWATER_REDIS_CA, and reach Redis by a name that its certificate holds"
        )
    if any(alert in text for alert in _UNWANTED):
        return SettingError(
            f"Redis does not accept our certificate: {text}; name one (PEM) that its CA signed, and its key, in "
            "HEADWATER_REDIS_CERT and HEADWATER_REDIS_KEY"
        )
    return None


def _of_reply(exc: exceptions.ResponseError) -> HeadwaterError:
    text = str(exc)
    if text.startswith("WRONGTYPE"):
        return UsageError(f"a key of this namespace holds another type; another program uses it: {text}")
    if "OOM " in text:
        return CacheFull(f"Redis is at maxmemory and refuses writes: {text}")
    if any(refusal in text for refusal in _REFUSALS):
        return NotPermitted(f"Redis refuses an operation to this user: {text}")
    return CacheUnavailable(f"Redis answered with an error: {text}")


class Guard:
    """Lets a call through or not, and tells the breaker how it went."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def enter(self) -> None:
        """Before a call.

        Raises:
            CacheUnavailable: the breaker is open.
        """
        if not self._breaker.calm and not self._breaker.allows():
            raise CacheUnavailable("Redis was down or too slow a moment ago, so it was not asked (circuit breaker)")

    def leave(self) -> None:
        """The call was answered. (One that its caller gave up tells nothing.)"""
        if not self._breaker.calm:
            self._breaker.record(True)

    def failed(self, exc: Exception) -> Exception:
        """The error to raise for ``exc``: one of ours, but for a missing script, which ``steps.evaluate`` answers."""
        if isinstance(exc, exceptions.NoScriptError):
            self._breaker.record(True)
            return exceptions.NoScriptError(*exc.args)
        error = translate(exc)
        if not isinstance(error, NoFreeConnection):
            self._breaker.record(not isinstance(error, CacheUnavailable))
        return error
