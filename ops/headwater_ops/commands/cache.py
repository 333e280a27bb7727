"""``headwater cache``: look into the cache as its readers see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater_ops.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from headwater_cache import EntityCache

app = typer.Typer(no_args_is_help=True, help="Look into the cache.")

Entity = Annotated[str, typer.Argument(help="Name of the cache, such as flight.")]
Key = Annotated[str, typer.Argument(help="Business key.")]
Domain = Annotated[str, typer.Option(help="Version domain of the cache: log, unless a source gives versions.")]


@app.command("get")
def get(entity: Entity, key: Key, domain: Domain = "log", as_json: AsJson = False) -> None:
    """Print the value of KEY. Exit code 1 if it is not found."""
    with _open(entity, domain) as cache:
        reading = cache.read(key)
    if reading.value is None:
        typer.echo(f"{entity} {key}: not found", err=True)
        raise typer.Exit(1)
    if as_json:
        print_json({"entity": entity, "key": key, "version": reading.version, "value": reading.value})
    elif isinstance(reading.value, dict):
        print_table(("field", "value"), list(reading.value.items()))
    else:
        typer.echo(reading.value)


@app.command("explain")
def explain(entity: Entity, key: Key, domain: Domain = "log", as_json: AsJson = False) -> None:
    """Show state, version, fence, lease, last refused write and watermarks of KEY."""
    from msgspec.structs import asdict

    with _open(entity, domain) as cache:
        explanation = cache.explain(key)
    if as_json:
        print_json(explanation)
        return
    rows = asdict(explanation)
    print_table(("of", "what"), [(name.replace("_", " "), _shown(name, value)) for name, value in rows.items()])


def _shown(name: str, value: Any) -> object:
    from datetime import UTC, datetime

    if name in ("written_at", "soft", "hard") and value:
        return datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="milliseconds")
    if name in ("expires_in", "lease_expires_in") and value is not None:
        return f"{value / 1000:.1f} s"
    if name == "ready":
        return f"{value[0]} of {value[1]} partitions"
    if name == "refusal" and value is not None:
        return f"{value.writer} of version {value.version}: {value.reason}"
    if isinstance(value, dict):
        return ", ".join(f"{of} = {what}" for of, what in value.items()) or None
    return value


def _open(entity: str, domain: str) -> EntityCache[Any]:
    from headwater_cache import EntityCache, RedisSettings

    return EntityCache[Any](entity, RedisSettings.from_env(), values=_AnyValues(), domain=domain)


class _AnyValues:
    """Reads msgpack and Avro alike; asks the registry only for Avro."""

    def encode(self, value: Any) -> tuple[int, bytes]:
        raise NotImplementedError("this command reads")

    def decode(self, schema_id: int, payload: bytes) -> Any:
        from headwater_cache import AvroValues, MsgpackValues
        from headwater_schemas.codec import Codec

        if schema_id == 0:
            return MsgpackValues[Any]().decode(schema_id, payload)
        codec = Codec.from_env()
        return AvroValues(lambda _: b"", codec.decoder()).decode(schema_id, payload)
