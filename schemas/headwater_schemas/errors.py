"""Every error Headwater raises, as one tree, split by what the caller does about it.

    HeadwaterError
    ├── UsageError                 fix the call (or the configuration); retrying cannot help
    │   ├── SettingError           a HEADWATER_* setting is missing, unknown or malformed
    │   ├── UnknownTopic           the topic is not in the catalogue
    │   ├── UnknownSchema          the schema is not in the catalogue, or not registered
    │   ├── InvalidValue           the value does not match its schema (names the field)
    │   ├── RecordTooLarge         the record is over the size limit
    │   ├── IncompatibleSchema     a schema change would break readers or writers
    │   └── NotPermitted           the server refused our credentials or an operation
    ├── BadRecord                  dead-letter it; the bytes will never become readable by waiting
    │   ├── NotDecodable           the bytes are not the wire format, or name an unknown schema
    │   └── SchemaMismatch         written with a schema that the reader cannot resolve
    └── Unavailable                slow down, wait and try again; nothing is wrong with the call
        ├── RegistryUnavailable    the schema registry does not answer
        ├── BrokerUnavailable      Kafka does not answer in time
        ├── CacheUnavailable       Redis does not answer in time
        ├── StackUnavailable       the embedded stack could not be started
        └── Overloaded             a bounded queue is full; apply back pressure

Packages add leaves below these branches, never new branches. Third-party errors are translated at one border per
package, with the cause kept (``raise ... from exc``).
"""

from __future__ import annotations

__all__ = [
    "BadRecord",
    "BrokerUnavailable",
    "CacheUnavailable",
    "HeadwaterError",
    "IncompatibleSchema",
    "InvalidValue",
    "NotDecodable",
    "NotPermitted",
    "Overloaded",
    "RecordTooLarge",
    "RegistryUnavailable",
    "SchemaMismatch",
    "SettingError",
    "StackUnavailable",
    "Unavailable",
    "UnknownSchema",
    "UnknownTopic",
    "UsageError",
]


class HeadwaterError(Exception):
    """The root. Catch it to catch everything of ours; the message says what to pass or do."""


class UsageError(HeadwaterError):
    """The call or the configuration is wrong: fix it, do not retry."""


class SettingError(UsageError):
    """A ``HEADWATER_*`` setting is missing, unknown or malformed."""


class UnknownTopic(UsageError):
    """The topic is not declared in the catalogue."""


class UnknownSchema(UsageError):
    """The schema is not in the catalogue, or the registry does not have it under this subject."""


class InvalidValue(UsageError):
    """The value does not match its schema. ``field`` is the dotted path of the first offending field."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class RecordTooLarge(UsageError):
    """The encoded record is over the size limit."""


class IncompatibleSchema(UsageError):
    """A schema change would break readers or writers at the topic's compatibility level."""


class NotPermitted(UsageError):
    """The server refused our credentials, or this operation to them."""


class BadRecord(HeadwaterError):
    """A consumed record that can never be processed as it is: it belongs in a dead-letter topic."""


class NotDecodable(BadRecord):
    """The bytes are not the wire format, or name a schema id that the registry does not know."""


class SchemaMismatch(BadRecord):
    """The record is sound, but the reader's schema cannot resolve it; redrivable after a schema fix."""


class Unavailable(HeadwaterError):
    """Something we depend on does not answer now. The caller slows down and tries again."""


class RegistryUnavailable(Unavailable):
    """The schema registry does not answer."""


class BrokerUnavailable(Unavailable):
    """Kafka does not answer in time."""


class CacheUnavailable(Unavailable):
    """Redis does not answer in time."""


class StackUnavailable(Unavailable):
    """A part of the embedded stack could not be started or reached."""


class Overloaded(Unavailable):
    """A bounded queue or bulkhead is full: back off."""
