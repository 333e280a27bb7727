"""A registry in memory, held to the same tests as the real one."""

from __future__ import annotations

from headwater_schemas.catalogue import COMPATIBILITIES, Compatibility, Schema
from headwater_schemas.clock import Clock
from headwater_schemas.errors import IncompatibleSchema, NotDecodable, RegistryUnavailable, UnknownSchema, UsageError
from headwater_schemas.registry.base import UNKNOWN_FOR, SchemaRegistry, parsed

__all__ = ["LocalRegistry"]


class LocalRegistry(SchemaRegistry):
    """A registry in memory, for tests: the same answers and errors as the real one, and a switch to take it down.

    ``down = True`` makes every request raise ``RegistryUnavailable``; ``requests`` counts what went past the caches.
    """

    def __init__(self, *, clock: Clock | None = None, unknown_for: float = UNKNOWN_FOR) -> None:
        super().__init__(clock=clock, unknown_for=unknown_for)
        self.down = False
        self.requests = 0
        self._texts: dict[int, str] = {}
        self._subjects: dict[str, list[int]] = {}
        self._levels: dict[str, Compatibility] = {}

    def versions(self, subject: str) -> list[Schema]:
        self._request()
        return [parsed(self._texts[i]) for i in self._subjects.get(subject, [])]

    def compatibility(self, subject: str) -> Compatibility | None:
        self._request()
        return self._levels.get(subject)

    def set_compatibility(self, subject: str, level: Compatibility) -> None:
        self._request()
        if level not in COMPATIBILITIES:
            raise UsageError(f"{level!r} is not a compatibility level: pass one of {', '.join(COMPATIBILITIES)}")
        self._levels[subject] = level

    def forget(self) -> None:
        """Empty the caches, as a new process would have them; what is registered stays."""
        self._schemas.clear()
        self._unknown.clear()
        self._ids.clear()

    def close(self) -> None:
        """Nothing to let go of."""

    def _fetch(self, schema_id: int) -> Schema:
        self._request()
        if schema_id not in self._texts:
            raise NotDecodable(f"the registry does not know schema id {schema_id}")
        return parsed(self._texts[schema_id])

    def _register(self, subject: str, text: str) -> int:
        self._request()
        self._judge(subject, text)
        with self._lock:
            schema_id = next((i for i, known in self._texts.items() if known == text), len(self._texts) + 1)
            self._texts[schema_id] = text
            versions = self._subjects.setdefault(subject, [])
            if schema_id not in versions:
                versions.append(schema_id)
            return schema_id

    def _lookup(self, subject: str, text: str) -> int:
        self._request()
        for schema_id in self._subjects.get(subject, []):
            if self._texts[schema_id] == text:
                return schema_id
        raise UnknownSchema(f"not registered under {subject}: run `headwater schemas register`")

    def _judge(self, subject: str, text: str) -> None:
        # Imported here: it brings the avro package, which only registering needs.
        from headwater_schemas.compatibility import breaks

        earlier = [(f"version {n}", parsed(self._texts[i])) for n, i in enumerate(self._subjects.get(subject, []), 1)]
        found = breaks(parsed(text), earlier, self._levels.get(subject, "NONE"))
        if found:
            raise IncompatibleSchema(f"the registry refuses the schema: {found[0].field}: {found[0].why}")

    def _request(self) -> None:
        self.requests += 1
        if self.down:
            raise RegistryUnavailable("the local registry was taken down")
