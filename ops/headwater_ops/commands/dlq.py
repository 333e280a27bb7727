"""``headwater dlq``: dead letters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater_ops.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from headwater_streams.deadletters import DeadLetter, DeadLetters, LetterId, RedriveReport, Selection
    from headwater_streams.deadletters.purge import What

app = typer.Typer(
    no_args_is_help=True, help="Look at dead letters, repair them, send them back to the failing handler."
)

Topic = Annotated[
    str | None, typer.Argument(help="A dead-letter topic, such as orders.placed.billing.dlt [default: all].")
]
Letter = Annotated[str, typer.Argument(metavar="TOPIC/PARTITION/OFFSET", help="A dead letter, as list prints it.")]
Fingerprint = Annotated[str | None, typer.Option(help="Only this kind of error; the beginning will do.")]
Group = Annotated[str | None, typer.Option(help="Only of this consumer group.")]
Handler = Annotated[str | None, typer.Option(help="Only of this handler.")]
Key = Annotated[str | None, typer.Option(help="Only of this record key.")]
Reason = Annotated[str | None, typer.Option(help="Only: decode, schema, handler, timeout, expired or too-large.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Died since: ISO 8601 (UTC) or an age such as 2h.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Died before: ISO 8601 (UTC) or an age such as 2h.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write nothing, only tell.")]
Again = Annotated[bool, typer.Option("--again", help="Also what was redriven or edited before.")]
Note = Annotated[str | None, typer.Option(help="Why, for the audit.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_(
    topic: Topic = None,
    group: Group = None,
    handler: Handler = None,
    fingerprint: Fingerprint = None,
    key: Key = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    letters: Annotated[bool, typer.Option("--letters", help="Each letter instead of the kinds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the kinds of dead letters: how many, since when, of what, with a sample. Open: not sent back yet."""
    selection = _selection(topic, group, handler, fingerprint, key, reason, since, until)
    with _open() as dead:
        if letters:
            _print_letters(dead, selection, as_json)
            return
        kinds = dead.kinds(selection)
    if as_json:
        print_json(kinds)
    elif not kinds:
        typer.echo("no dead letters")
    for kind in () if as_json else kinds:
        typer.echo(f"{kind.open} open of {kind.count}  {kind.fingerprint}  {kind.topic}")
        typer.echo(f"    {kind.handler}: {kind.reason}: {kind.exception_class}: {kind.exception_message}")
        typer.echo(f"    {_instant(kind.first_seen)} to {_instant(kind.last_seen)}, the newest {kind.sample}")


@app.command()
def show(letter: Letter, as_json: AsJson = False) -> None:
    """Show one dead letter: its value, where it came from, and the stack of its failure."""
    from headwater_streams.deadletters import LetterId
    from headwater_streams.readable import json_line, readable_headers, text

    with _open() as dead:
        found, is_open = dead.get(LetterId.parse(letter))
        value = dead.value(found)
    if as_json:
        print_json({**_row(found, is_open), "headers": readable_headers(found.headers), **value, "stack": found.stack})
        return
    origin = found.origin
    print_table(
        ("of", "what"),
        [
            ("letter", f"{found.id} ({'open' if is_open else 'redriven, edited or released'})"),
            ("died", f"{_instant(found.died_at)} in group {found.group}, after {found.attempts} attempts"),
            ("reason", f"{found.reason}: {found.exception_class}: {found.exception_message}"),
            ("fingerprint", found.fingerprint),
            ("handler", f"{found.handler}, redriven {found.redrives} times"),
            ("record", origin and f"{origin.topic}/{origin.partition}/{origin.offset} of {_instant(origin.timestamp)}"),
            ("key", text(found.key)),
            *((name, text(held)) for name, held in found.own_headers()),
        ],
    )
    typer.echo(json_line(value.get("undecodable") or value["value"]))
    typer.echo(f"\n{found.stack or 'no stack was kept'}")


@app.command()
def redrive(
    target: Annotated[
        str | None, typer.Argument(metavar="[TOPIC | LETTER]", help="A dead-letter topic, or TOPIC/PARTITION/OFFSET.")
    ] = None,
    group: Group = None,
    handler: Handler = None,
    fingerprint: Fingerprint = None,
    key: Key = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="Needed when nothing else says which letters.")] = False,
    dry_run: DryRun = False,
    rate: Annotated[str | None, typer.Option(metavar="N/s", help="Letters per second [default: no limit].")] = None,
    canary: Annotated[int, typer.Option(min=0, help="Redrive so many first; go on only if all are handled.")] = 0,
    canary_timeout: Annotated[str, typer.Option(help="How long to wait for the canaries' outcome.")] = "60s",
    max_redrives: Annotated[int, typer.Option(min=1, help="Leave alone what came back so often.")] = 3,
    again: Again = False,
    to_handler: Annotated[str | None, typer.Option(help="Another handler of the group, if theirs was renamed.")] = None,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to the handler that failed. No other group or handler sees them.

    Safe to interrupt and to repeat: what was sent back once is left alone. Exit code 1 when a canary stopped it, or
    when a letter could not be sent back.
    """
    from headwater_schemas.durations import seconds
    from headwater_schemas.errors import UsageError

    selection = _selection(target, group, handler, fingerprint, key, reason, since, until)
    if str(selection) == "all" and not everything:
        raise UsageError(
            "which letters? Pass a topic, a letter or an option such as --fingerprint; --all takes every one"
        )
    moved = 0

    def progress(count: int) -> None:
        nonlocal moved
        moved = count

    with _open() as dead:
        try:
            report = dead.redrive(
                selection,
                dry_run=dry_run,
                rate=None if rate is None else _rate(rate),
                canary=canary,
                canary_timeout=seconds(canary_timeout),
                max_redrives=max_redrives,
                again=again,
                handler=to_handler,
                note=note,
                progress=progress,
            )
        except KeyboardInterrupt:
            typer.echo(f"interrupted; {moved} were redriven. The same command goes on where this ended", err=True)
            raise typer.Exit(130) from None
    _print_report(report, as_json)


@app.command()
def edit(
    letter: Letter,
    value: Annotated[
        str | None, typer.Option(help="The new value as JSON, or @FILE [default: $VISUAL or $EDITOR opens it].")
    ] = None,
    dry_run: DryRun = False,
    again: Again = False,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Send one dead letter back with another value, checked against the schema of the topic it came from."""
    from headwater_streams.deadletters import LetterId

    with _open() as dead:
        name = LetterId.parse(letter)
        document = _parsed(_in_editor(dead, name) if value is None else _argument(value))
        report = dead.edit(name, document, dry_run=dry_run, again=again, note=note)
    _print_report(report, as_json)


@app.command()
def release(letter: Letter, dry_run: DryRun = False, note: Note = None, as_json: AsJson = False) -> None:
    """Give up a dead letter that holds its key (on_dead="hold"): the records behind it run, it itself never does."""
    from headwater_streams.deadletters import LetterId

    with _open() as dead:
        report = dead.release(LetterId.parse(letter), dry_run=dry_run, note=note)
    if as_json:
        print_json(report)
    else:
        typer.echo(f"{letter} {'would be' if dry_run else 'is'} given up: its key goes on (run {report.run})")


@app.command()
def purge(
    topic: Annotated[str, typer.Argument(help="A dead-letter topic.")],
    before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Delete what died before: a time, or an age.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete all that stand there, open ones too.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters for good: those at the start that were sent back, unless --before or --all say more."""
    from headwater_schemas.errors import UsageError

    if before is not None and everything:
        raise UsageError("--before and --all exclude each other")
    what: What = "all" if everything else "handled" if before is None else _time(before)
    with _open() as dead:
        report = dead.purge(topic, what, dry_run=True)
        if not dry_run and report.count:
            if not yes:
                typer.confirm(f"Delete {report.count} letters of {topic}, {report.open} of them open?", abort=True)
            report = dead.purge(topic, what, note=note)
    if as_json:
        print_json(report)
    else:
        done = "would be deleted" if dry_run else "deleted"
        typer.echo(f"{report.count} letters {done}, {report.open} of them open")


def _open() -> DeadLetters:
    from headwater_ops.stack.endpoints import environment
    from headwater_streams.deadletters import DeadLetters

    return DeadLetters.from_env(environment())


def _selection(
    target: str | None,
    group: str | None,
    handler: str | None,
    fingerprint: str | None,
    key: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
) -> Selection:
    from headwater_streams.deadletters import LetterId, Selection

    letter = LetterId.parse(target) if target is not None and "/" in target else None
    return Selection(
        topic=target if letter is None else None,
        group=group,
        handler=handler,
        fingerprint=fingerprint,
        key=key,
        reason=reason,
        since=None if since is None else _time(since),
        until=None if until is None else _time(until),
        letter=letter,
    )


def _time(text: str) -> float:
    from headwater_ops.times import moment

    return moment(text)


def _rate(text: str) -> float:
    from headwater_schemas.errors import UsageError

    number = text.removesuffix("/s")
    try:
        return float(number)
    except ValueError:
        raise UsageError(f"--rate {text}: pass letters per second, such as 50/s") from None


def _instant(seconds: float) -> str:
    from headwater_streams.readable import instant

    return instant(seconds)


def _row(letter: DeadLetter, is_open: bool) -> dict[str, Any]:
    from headwater_streams.readable import text

    return {
        "id": str(letter.id),
        "open": is_open,
        "died_at": _instant(letter.died_at),
        "group": letter.group,
        "handler": letter.handler,
        "reason": letter.reason,
        "exception": letter.exception_class,
        "message": letter.exception_message,
        "fingerprint": letter.fingerprint,
        "redrives": letter.redrives,
        "holds_key": letter.holds_key,
        "key": text(letter.key),
        "origin": letter.origin,
    }


def _print_letters(dead: DeadLetters, selection: Selection, as_json: bool) -> None:
    """One line each, as they are read: there may be many."""
    from headwater_streams.readable import json_line

    for letter, is_open in dead.letters(selection):
        row = _row(letter, is_open)
        if as_json:
            typer.echo(json_line(row))
        else:
            state = "sent back" if not is_open else "holds its key" if letter.holds_key else "open"
            typer.echo(f"{row['id']}  {state}  {row['died_at']}  {row['key']}  {row['exception']}: {row['message']}")


def _print_report(report: RedriveReport, as_json: bool) -> None:
    if as_json:
        print_json(report)
    else:
        done = "would go back" if report.dry_run else "sent back"
        typer.echo(f"{len(report.redriven)} of {report.selected} letters {done} (run {report.run})")
        if report.handled:
            typer.echo(f"{report.handled} were sent back before and are left alone (--again)")
        if report.guarded:
            typer.echo(f"{report.guarded} came back too often and are left alone (--max-redrives)")
        for _, why in report.refused:
            typer.echo(f"refused: {why}")
        if report.verdict is not None:
            typer.echo(f"canaries: {len(report.verdict.done)} handled, {len(report.verdict.failed)} died again")
        if report.stopped is not None:
            typer.echo(f"stopped: {report.stopped}")
    if report.stopped is not None or report.refused:
        raise typer.Exit(1)


def _argument(value: str) -> str:
    return Path(value[1:]).read_text("utf-8") if value.startswith("@") else value


def _parsed(text: str) -> Any:
    import msgspec

    from headwater_schemas.errors import InvalidValue

    try:
        return msgspec.json.decode(text.encode())
    except msgspec.DecodeError as exc:
        raise InvalidValue(f"the new value is not JSON: {exc}") from exc


def _in_editor(dead: DeadLetters, letter: LetterId) -> str:
    """The value as a person changes it. Unchanged, or closed with an error, gives up."""
    import msgspec

    found, _ = dead.get(letter)
    before = msgspec.json.format(msgspec.json.encode(dead.value(found)["value"], enc_hook=str), indent=2).decode()
    after = _edited(before)
    if after is None or after.strip() == before.strip():
        typer.echo("nothing changed, nothing sent", err=True)
        raise typer.Abort
    return after


def _edited(text: str) -> str | None:
    """``text`` after a person has changed it; ``None`` when the editor says that it failed."""
    import os
    import shlex
    import subprocess
    import tempfile

    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "value.json"
        file.write_text(text, "utf-8")
        ended = subprocess.run([*shlex.split(editor), str(file)], check=False)
        return file.read_text("utf-8") if ended.returncode == 0 else None
