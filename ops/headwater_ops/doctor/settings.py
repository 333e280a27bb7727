"""Are the ``HEADWATER_*`` settings known and well-formed?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from headwater_ops.doctor.finding import Finding, bad, good
from headwater_schemas.errors import SettingError
from headwater_schemas.settings import SETTINGS, Environment, Setting

__all__ = ["check_settings", "known_only"]

T = TypeVar("T")


def known_only(values: Mapping[str, str]) -> dict[str, str]:
    """The values without the unknown ``HEADWATER_*`` names, so that one mistake does not hide the next."""
    known = {setting.name for setting in SETTINGS}
    return {name: value for name, value in values.items() if name in known or not name.startswith("HEADWATER_")}


def check_settings(values: Mapping[str, str]) -> Iterator[Finding]:
    """Every unknown name and every malformed value."""
    unknown = sorted(set(values) - set(known_only(values)))
    for name in unknown:
        yield bad("settings", _complaint(Environment, {name: ""}) or name, f"unset {name} or correct it")
    env = Environment(known_only(values))
    complaints = _complaints(env)
    for complaint in complaints:
        yield bad("settings", complaint, "correct the setting")
    if not unknown and not complaints:
        named = sorted(name for name in values if name.startswith("HEADWATER_") and values[name])
        yield good("settings", ", ".join(named) if named else "none is set: the defaults hold")


def _complaints(env: Environment) -> list[str]:
    found = list(dict.fromkeys(filter(None, (_complaint(read, env) for read in _readers()))))
    for setting in SETTINGS:  # also those that no value object reads; told once
        complaint = _complaint(_form(setting), env)
        if complaint and not any(setting.name in told for told in found):
            found.append(complaint)
    return found


def _complaint(read: Callable[[T], object], source: T) -> str | None:
    try:
        read(source)
    except SettingError as exc:
        return str(exc)
    return None


def _form(setting: Setting) -> Callable[[Environment], object]:
    """A value has the form of its default: a duration, a whole number, or host:port."""
    default = setting.default or ""
    if default.isdecimal():
        return lambda env: env.integer(setting.name)
    if re.fullmatch(r"\d+(ms|s|m|h|d)", default):
        return lambda env: env.duration(setting.name)
    if setting.name.endswith("_HTTP"):
        return lambda env: _host_and_port(setting.name, env.text(setting.name))
    return lambda env: None


def _host_and_port(name: str, value: str) -> None:
    if not re.fullmatch(r".+:\d{1,5}", value):
        raise SettingError(f"{name}={value!r} must be host:port, such as 127.0.0.1:8080")


def _readers() -> tuple[Callable[[Environment], object], ...]:
    """Every value object that is built from settings."""
    from headwater_cache.settings import RedisSettings
    from headwater_producers.settings import ProducerSettings
    from headwater_schemas.settings import KafkaSettings, RegistrySettings

    return (KafkaSettings.from_env, RegistrySettings.from_env, RedisSettings.from_env, ProducerSettings.from_env)
