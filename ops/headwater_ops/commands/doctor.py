"""``headwater doctor``."""

from __future__ import annotations

import os

import typer

from headwater_ops.output import AsJson, print_json

_MARKS = {"ok": ("ok  ", typer.colors.GREEN), "warn": ("warn", typer.colors.YELLOW), "fail": ("FAIL", typer.colors.RED)}


def command(as_json: AsJson = False) -> None:
    """Check every setting and dependency, and say what to do. Exit code 1 when something does not work."""
    from headwater_ops.doctor.examination import examine

    findings = examine(os.environ)
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            mark, colour = _MARKS[finding.status]
            typer.echo(f"{typer.style(mark, fg=colour)} {finding.check}: {finding.detail}")
            if finding.advice:
                typer.echo(f"     -> {finding.advice}")
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)
