"""Does the schema registry answer, and does it let us in?"""

from __future__ import annotations

from collections.abc import Iterator

from headwater_ops.doctor.finding import Finding, bad, good
from headwater_schemas.errors import HeadwaterError, NotPermitted
from headwater_schemas.settings import Environment, RegistrySettings

__all__ = ["check_registry"]


def check_registry(env: Environment) -> Iterator[Finding]:
    """Blocks up to ``HEADWATER_REGISTRY_TIMEOUT``."""
    from headwater_schemas.registry import Registry

    settings = RegistrySettings.from_env(env)
    try:
        with Registry(settings) as registry:
            registry.versions("headwater-doctor-value")
    except NotPermitted as exc:
        yield bad("registry", str(exc), "correct HEADWATER_REGISTRY_USERNAME and _PASSWORD")
    except HeadwaterError as exc:
        yield bad(
            "registry",
            str(exc),
            "headwater up starts one on this machine; or correct HEADWATER_REGISTRY_URL",
        )
    else:
        yield good("registry", f"{settings.url} answers")
