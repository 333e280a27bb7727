"""``headwater cache``: look into the cache as its readers see it, fill it anew, audit it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headwater_ops.output import AsJson, print_json, print_table
from headwater_schemas.errors import UsageError

if TYPE_CHECKING:
    from headwater_cache import EntityCache

app = typer.Typer(no_args_is_help=True, help="Look into the cache.")

Entity = Annotated[str, typer.Argument(help="Name of the cache, such as flight.")]
Key = Annotated[str, typer.Argument(help="Business key.")]
Topic = Annotated[str | None, typer.Option(help="Change topic [default: ENTITY.changes].")]
Domain = Annotated[str, typer.Option(help="Version domain of the cache: log, unless a source gives versions.")]


@app.command("get")
def get(
    entity: Entity,
    key: Key,
    domain: Domain = "log",
    mode: Annotated[
        Literal["view", "cache"] | None, typer.Option(help="What ENTITY is [default: seen by what it holds].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the value of KEY as readers are served it. Exit code 1 if it is not found.

    A cache is not loaded from its source: what has expired, or was invalidated, is not found here.
    """
    from headwater_ops.looking import look
    from headwater_ops.stack.endpoints import environment

    found = look(environment(), entity, key, domain=domain, mode=mode)
    value = found.reading.value
    if value is None:
        known = found.mode == "view" or found.explained.verdict == "negative"
        typer.echo(f"{entity} {key}: not found{'' if known else f' in Redis ({found.explained.meaning})'}", err=True)
        raise typer.Exit(1)
    if as_json:
        print_json({"entity": entity, "key": key, "version": found.reading.version, "value": value})
    elif isinstance(value, dict):
        print_table(("field", "value"), list(value.items()))
    else:
        typer.echo(value)


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


@app.command("stats")
def stats(
    entity: Entity,
    limit: Annotated[int, typer.Option(min=1, help="Entries to look at, at most.")] = 100_000,
    domain: Domain = "log",
    as_json: AsJson = False,
) -> None:
    """Count what ENTITY holds in Redis: entries by state, sizes, leases, watermarks. Scans."""
    from msgspec.structs import asdict

    with _open(entity, domain) as cache:
        found = cache.stats(limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ("of", "what"), [(name.replace("_", " "), _shown(name, value)) for name, value in asdict(found).items()]
    )


@app.command("invalidate")
def invalidate(
    entity: Entity,
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY...", help="Business keys.")] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", help="Everything that carries this tag; repeatable.")
    ] = None,
) -> None:
    """Stop serving KEYs (or all that carries a tag) of a cache; their next reads ask the source.

    Not for a view, which has no source: there `headwater cache warm` fills everything anew.
    """
    import asyncio

    from headwater_cache import RedisSettings
    from headwater_ops.invalidating import invalidate
    from headwater_ops.stack.endpoints import environment

    if not keys and not tags:
        raise UsageError("name what to invalidate: KEYs, or --tag")
    found = asyncio.run(invalidate(entity, RedisSettings.from_env(environment()), keys or (), tags or ()))
    for key, was_there in found.items():
        typer.echo(f"{entity} {key}: {'invalidated' if was_there else 'was absent'}")
    if tags:
        typer.echo(f"{entity}: invalidated what carries {', '.join(tags)}")


@app.command("hot")
def hot(
    entity: Entity, top: Annotated[int, typer.Option(min=1, help="How many.")] = 10_000, domain: Domain = "log"
) -> None:
    """Print the keys of ENTITY that are read most, one a line, hottest first: for `warm --keys`. Scans.

    Redis must count reads: maxmemory-policy allkeys-lfu or volatile-lfu.
    """
    with _open(entity, domain) as cache:
        for key in cache.hot_keys(top):
            typer.echo(key)


@app.command("warm")
def warm(
    entity: Annotated[str, typer.Argument(help="A view, such as flight; or MODULE:CACHE, a cache with its source.")],
    keys: Annotated[
        typer.FileText | None, typer.Option(help="MODULE:CACHE: file of keys to load, one a line; - = stdin.")
    ] = None,
    topic: Topic = None,
    topic_epoch: Annotated[int, typer.Option(min=0, help="Epoch of the topic, as the cache sync has it.")] = 0,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Changes (50,000) or loads (1,000) per second, at most.")
    ] = None,
    swap: Annotated[bool, typer.Option(help="Make the new epoch the live one when it has caught up.")] = True,
) -> None:
    """Fill the view ENTITY anew from its change topic, beside the live one, and swap them at once.

    Stop it and run it again: it goes on where it stopped. The retired epoch is deleted after the swap.

    For a cache: load the keys of a file from its source, where they are missing. MODULE:CACHE names the EntityCache of
    your code, such as shop.caches:orders.
    """
    if ":" in entity:
        if keys is None:
            raise UsageError(f"say which keys of {entity} to load: --keys FILE, as `headwater cache hot` printed them")
        done = _warm_cache(entity, [line.rstrip("\n") for line in keys if line.strip()], rate or 1000)
        typer.echo(f"{entity}: {done} keys are there")
        return
    if keys is not None:
        raise UsageError(f"{entity} is a view and is filled from its topic; --keys needs MODULE:CACHE")
    from headwater_ops.stack.endpoints import environment
    from headwater_ops.warming import warm_view

    epoch, changes = warm_view(environment(), entity, topic, topic_epoch=topic_epoch, rate=rate or 50_000, swap=swap)
    typer.echo(f"{entity}: {changes} changes applied to epoch {epoch}, {'now live' if swap else 'not live yet'}")


@app.command("audit")
def audit(
    entities: Annotated[list[str], typer.Argument(metavar="ENTITY...", help="Names of views, or of caches.")],
    topic: Annotated[
        str | None, typer.Option(help="Change topic of a single ENTITY [default: ENTITY.changes].")
    ] = None,
    topic_epoch: Annotated[int, typer.Option(min=0, help="Epoch of the topic, as the cache sync has it.")] = 0,
    mode: Annotated[
        Literal["view", "cache"],
        typer.Option(help="What they are: a cache's changes carry the versions of its source."),
    ] = "view",
    domain: Domain = "log",
    share: Annotated[float, typer.Option(help="Share of the keys to watch, 0 to 1.")] = 0.1,
    seconds: Annotated[float, typer.Option(help="How long to watch.")] = 75.0,
    repair: Annotated[bool, typer.Option("--repair", help="Apply once more what is wrong after 10 s.")] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Stay, and serve the nines to Prometheus on HEADWATER_AUDIT_HTTP.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Watch changes and read each key 1, 10, 60 and 300 s later. Exit code 1 if one was wrong after 10 s.

    Only what happens from now on is watched. A change that shows late is lag; one that is still missing after 10 s is
    an error, and with --repair it is applied again. In a cache (--mode cache) what is not served is no error: the next
    read asks the source, and --repair makes it do so.
    """
    from headwater_ops.auditing import AuditOptions, watch
    from headwater_ops.auditing import serve as stay
    from headwater_ops.stack.endpoints import environment

    if topic is not None and len(entities) > 1:
        raise UsageError("--topic names the topic of one view: pass a single ENTITY with it")
    options = AuditOptions(entities, topic, topic_epoch, share, repair, mode, domain)
    if serve:
        stay(environment(), options)
        return
    reports, wrong = watch(environment(), options, seconds)
    if as_json:
        shown = [{"report": report, "consistent": report.consistent, "nines": report.nines} for report in reports]
        print_json({"entities": shown, "violations": wrong})
    else:
        rows = [
            (report.entity, f"{age} s", report.decided[age], report.violations.get(age, 0), f"{of:.5%}")
            for report in reports
            for age, of in report.consistent.items()
        ]
        print_table(("entity", "within", "changes", "wrong", "consistent"), rows)
    if any(violation.age >= 10 for violation in wrong):
        raise typer.Exit(1)


def _warm_cache(target: str, keys: list[str], rate: int) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    cache = _imported(target)
    columns = (TextColumn(target), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with cache, Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(keys))
        return cache.warm(keys, rate=rate, progress=lambda done: progress.update(bar, completed=done))


def _imported(target: str) -> EntityCache[Any]:
    import sys
    from importlib import import_module

    from headwater_cache import EntityCache

    module, _, name = target.partition(":")
    sys.path.insert(0, "")  # as `python -m` does
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise UsageError(f"{target}: {exc}; pass MODULE:CACHE, such as shop.caches:orders") from exc
    if not isinstance(found, EntityCache):
        raise UsageError(f"{target} is {type(found).__name__}, not an EntityCache")
    return found


def _open(entity: str, domain: str) -> EntityCache[Any]:
    """As a cache, also if it is a view: to look at what is there, and not to ask for what Redis a view needs."""
    from headwater_cache import EntityCache, RedisSettings
    from headwater_ops.stack.endpoints import environment

    return EntityCache[Any](entity, RedisSettings.from_env(environment()), mode="cache", domain=domain)
