"""The reference pages, made from the code while the site is built: they exist nowhere as files and cannot drift."""

from __future__ import annotations

from chart import values_page
from command import command_page
from metrics import metrics_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from settings import settings_page

PAGES = {
    "reference/settings.md": settings_page,
    "reference/cli.md": command_page,
    "reference/metrics.md": metrics_page,
    "reference/chart.md": values_page,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by MkDocs when it has found the files of ``docs/``."""
    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files
