"""``headwater tasks``: submit tasks, see what becomes of them, cancel and retry them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater_ops.output import AsJson, print_json, print_table
from headwater_schemas.errors import UsageError

if TYPE_CHECKING:
    from headwater_tasks import Task, TaskClient

app = typer.Typer(no_args_is_help=True, help="Submit tasks, see what becomes of them, cancel and retry them.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The task.")]


@app.command()
def submit(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Which function runs it, such as invoice.render.")],
    payload: Annotated[str, typer.Argument(help="What it is given, as JSON.")] = "null",
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key and type is the same task.")] = None,
    delay: Annotated[str | None, typer.Option(help="Not to be run before this long from now, such as 10m.")] = None,
    deadline: Annotated[str | None, typer.Option(help="Not to be run, nor be running, after this long.")] = None,
    wait: Annotated[str | None, typer.Option(help="Wait so long for its end; exit code 1 unless it succeeds.")] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a task."""
    try:
        document = json.loads(payload)
    except ValueError as exc:
        raise UsageError(f"the payload is not JSON: {exc}") from exc
    with _client() as client:
        handle = client.submit(type_, document, idempotency_key=key, delay=delay, deadline=deadline).accepted()
        task = handle.task if wait is None else handle.wait(wait)
        _show(task, as_json)
    if wait is not None and task.state != "SUCCEEDED":
        raise typer.Exit(1)


@app.command()
def get(id_: Id, as_json: AsJson = False) -> None:
    """Show a task and what it went through."""
    from headwater_tasks import TaskNotFound

    with _client() as client:
        task = client.get(id_)
        if task is None:
            raise TaskNotFound(f"there is no task {id_}")
        if as_json:
            print_json({**_document(task), "history": client.history(id_)})
            return
        _show(task, as_json=False)
        typer.echo()
        print_table(
            ("state", "run", "attempt", "at", "worker", "error or message"),
            [
                (step.state, step.run, step.attempt, _time(step.at), step.worker, step.error or step.message)
                for step in client.history(id_)
            ],
        )


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help="Only tasks in this state, such as DEAD.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only tasks of this type.")] = None,
    limit: Annotated[int, typer.Option(help="How many, 1 to 500.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Continue behind a page.")] = None,
    as_json: AsJson = False,
) -> None:
    """List tasks, newest submission first."""
    with _client() as client:
        page = client.list(state=state.upper() if state else None, type=type_, cursor=cursor, limit=limit)
    if as_json:
        print_json({"tasks": [_document(task) for task in page.tasks], "cursor": page.cursor})
        return
    print_table(
        ("id", "type", "state", "attempt", "submitted", "progress", "error"),
        [
            (task.id, task.type, task.state, task.attempt, _time(task.submitted_at), _percent(task), task.error)
            for task in page.tasks
        ],
    )
    if page.cursor is not None:
        typer.echo(f"more: --cursor {page.cursor}", err=True)


@app.command()
def cancel(
    id_: Id,
    reason: Annotated[str | None, typer.Option(help="Why, for people.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask for a task to be cancelled. A running one may end before it notices."""
    with _client() as client:
        _show(client.cancel(id_, reason=reason), as_json)


@app.command()
def retry(id_: Id, as_json: AsJson = False) -> None:
    """Run a task again that FAILED, is DEAD, CANCELLED or EXPIRED."""
    with _client() as client:
        _show(client.retry(id_).task, as_json)


def _client() -> TaskClient:
    from headwater_ops.stack.endpoints import environment
    from headwater_tasks import TaskClient

    return TaskClient.from_env(environment(), source="headwater-command")


def _show(task: Task, as_json: bool) -> None:
    if as_json:
        print_json(_document(task))
        return
    shown = {name: value for name, value in _document(task).items() if value is not None}
    print_table(("", ""), [(name, json.dumps(value) if name == "result" else value) for name, value in shown.items()])


def _document(task: Task) -> dict[str, Any]:
    from headwater_tasks.http.documents import TaskDocument

    return TaskDocument.of(task).model_dump(mode="json")


def _time(at: Any) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def _percent(task: Task) -> str | None:
    return None if task.progress is None else f"{task.progress:.0%}"
