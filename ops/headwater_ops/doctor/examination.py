"""All checks, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from headwater_ops.doctor.finding import Finding
from headwater_ops.doctor.kafka import check_kafka
from headwater_ops.doctor.machine import check_machine
from headwater_ops.doctor.redis import check_redis
from headwater_ops.doctor.registry import check_registry
from headwater_ops.doctor.settings import check_settings, known_only
from headwater_ops.doctor.spool import check_spool
from headwater_ops.stack.endpoints import environment
from headwater_schemas.errors import SettingError
from headwater_schemas.settings import Environment

__all__ = ["examine"]

_CHECKS = (check_kafka, check_registry, check_redis, check_spool, check_machine)


def examine(values: Mapping[str, str]) -> list[Finding]:
    """Look at the settings in ``values`` and at everything they point at. Blocks up to some ten seconds."""
    findings = list(check_settings(values))
    env = environment(known_only(values))
    with ThreadPoolExecutor(len(_CHECKS)) as pool:
        for found in pool.map(lambda check: _found(check, env), _CHECKS):
            findings += found
    return findings


def _found(check: Callable[[Environment], Iterator[Finding]], env: Environment) -> list[Finding]:
    try:
        return list(check(env))
    except SettingError:
        return []  # told by check_settings
