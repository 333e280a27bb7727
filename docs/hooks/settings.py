"""The settings page, from the table that the code reads."""

from __future__ import annotations

from table import table

from headwater_schemas.settings import SETTINGS, Setting

HEAD = """# Settings

Headwater is configured by environment variables. A name that begins with `HEADWATER_` and is not in this table is an
error at start, so a typing mistake is never silence. Durations are written `250ms`, `30s`, `10m`, `1h`, `7d`, or as a
number of seconds. A :material-lock: marks a secret: it is not printed and belongs in a Secret, not in a ConfigMap.

"""


def settings_page() -> str:
    """The page as Markdown."""
    return HEAD + table(["name", "default", "meaning"], [_row(setting) for setting in SETTINGS])


def _row(setting: Setting) -> list[str]:
    name = f"`{setting.name}`" + (" :material-lock:" if setting.secret else "")
    return [name, "–" if setting.default is None else f"`{setting.default}`", setting.help]
