"""API keys: random tokens with scopes, of which only hashes are stored.

The file that ``HEADWATER_API_KEYS`` names::

    [keys.dashboard]
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    scopes = ["tasks:read"]

``headwater api new-key dashboard --scope tasks:read`` makes a key and such a table. A key has 256 random bits, so one
round of SHA-256 hides it as well as a slow hash would; slow hashes are for what people choose.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from headwater_schemas.errors import SettingError, UsageError

__all__ = ["SCOPES", "ApiKey", "ApiKeys", "Scope", "hash_of", "new_key"]

Scope = Literal[
    "tasks:read",  # see tasks, their lists, histories and events
    "tasks:write",  # submit, cancel and retry
    "events:write",  # emit events; events:write:<topic> allows one topic
    "cache:read",  # what is known of keys, without their values
    "cache:values",  # the values themselves
    "cache:write",  # invalidate
]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

_PREFIX: Final = "hw_"
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_EVENTS: Final = "events:write:"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a key may do."""

    name: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether it has this scope. ``events:write`` includes every ``events:write:<topic>``."""
        return scope in self.scopes or (scope.startswith(_EVENTS) and "events:write" in self.scopes)


class ApiKeys:
    """The keys that are accepted, by hash."""

    def __init__(self, keys: Mapping[str, ApiKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def load(cls, path: Path) -> ApiKeys:
        """Read a key file.

        Raises:
            SettingError: it cannot be read, or something in it is wrong; the message names the key.
        """
        try:
            document = tomllib.loads(path.read_text("utf-8"))
        except OSError as exc:
            raise SettingError(f"HEADWATER_API_KEYS: {path} cannot be read: {exc.strerror}") from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise SettingError(f"HEADWATER_API_KEYS: {path} is not TOML: {exc}") from exc
        tables = document.get("keys")
        if set(document) != {"keys"} or not isinstance(tables, dict) or not tables:
            raise SettingError(f"HEADWATER_API_KEYS: {path} must hold [keys.<name>] tables: headwater api new-key")
        keys: dict[str, ApiKey] = {}
        for name, table in tables.items():
            digest, key = _key(path, name, table)
            if digest in keys:
                raise SettingError(f"HEADWATER_API_KEYS: {path}: {name} and {keys[digest].name} are the same key")
            keys[digest] = key
        return cls(keys)

    def find(self, token: str) -> ApiKey | None:
        """The key of this token. Looked up by its hash, so how long it takes tells nothing about other tokens."""
        return self._keys.get(hash_of(token))


def hash_of(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_key(name: str, scopes: Collection[str]) -> tuple[str, str]:
    """A new token, which nobody can show again, and the table that makes it known.

    Raises:
        UsageError: a name or a scope that cannot be.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) is None:
        raise UsageError(f"{name!r} cannot name a key: pass 1 to 64 characters of A-Z a-z 0-9 _ -")
    for scope in scopes:
        _check_scope(scope)
    token = _PREFIX + secrets.token_urlsafe(32)
    listed = ", ".join(f'"{scope}"' for scope in sorted(scopes))
    return token, f'[keys.{name}]\nsha256 = "{hash_of(token)}"\nscopes = [{listed}]\n'


def _key(path: Path, name: str, table: Any) -> tuple[str, ApiKey]:
    where = f"HEADWATER_API_KEYS: {path}: [keys.{name}]"
    if not isinstance(table, dict) or set(table) != {"sha256", "scopes"}:
        raise SettingError(f"{where} must have sha256 and scopes, and nothing else")
    digest, scopes = table["sha256"], table["scopes"]
    if not isinstance(digest, str) or _HASH.fullmatch(digest) is None:
        raise SettingError(f"{where}: sha256 must be 64 hex digits, not the key itself")
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes) or not scopes:
        raise SettingError(f'{where}: scopes must be a list, such as ["tasks:read"]')
    try:
        for scope in scopes:
            _check_scope(scope)
    except UsageError as exc:
        raise SettingError(f"{where}: {exc}") from exc
    return digest, ApiKey(name, frozenset(scopes))


def _check_scope(scope: str) -> None:
    if scope not in SCOPES and not (scope.startswith(_EVENTS) and len(scope) > len(_EVENTS)):
        raise UsageError(f"there is no scope {scope!r}: pass one of {', '.join(SCOPES)} or events:write:<topic>")
