"""Who may call: a bearer key with the scope, or this machine alone when no keys are set."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from headwater_tasks.http.keys import ApiKeys
from headwater_tasks.http.problems import FieldError, ProblemError

__all__ = ["allow", "bearer", "is_loopback", "known_queries", "requires"]

bearer = HTTPBearer(auto_error=False, description="An API key; see `headwater api new-key`.")
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def requires(scope: str) -> Any:
    """A dependency: the caller may do this. For a route: ``dependencies=[requires("tasks:read")]``."""

    async def check(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)] = None
    ) -> None:
        allow(request, scope, credentials)

    return Depends(check)


def allow(request: Request, scope: str, credentials: HTTPAuthorizationCredentials | None) -> None:
    """Return if the caller may do this.

    Raises:
        ProblemError: 401 without a valid key, 403 without the scope.
    """
    keys: ApiKeys | None = request.app.state.keys
    if keys is None:
        _check_local(request)
        return
    if credentials is None:
        raise ProblemError(401, "unauthorized", "send Authorization: Bearer <key>", headers=_CHALLENGE)
    key = keys.find(credentials.credentials)
    if key is None:
        invalid = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        raise ProblemError(401, "unauthorized", "this key is not known", headers=invalid)
    if not key.may(scope):
        raise ProblemError(403, "forbidden", f"key {key.name} does not have the scope {scope}")


def _check_local(request: Request) -> None:
    """Without keys only this machine may call. The Host header is looked at too: a page in a browser on this machine
    can point a name of its own at 127.0.0.1 (DNS rebinding), but the browser then sends that name."""
    peer = request.client.host if request.client is not None else ""
    if not is_loopback(peer) or not is_loopback(request.url.hostname or ""):
        raise ProblemError(403, "forbidden", "no API keys are set, so only this machine may call, as localhost")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def known_queries(request: Request) -> None:
    """A dependency: refuse query parameters that the route does not have; a misspelt filter must not be a wider one.

    Raises:
        ProblemError: 422, naming them.
    """
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    strange = sorted(set(request.query_params) - known)
    if strange:
        has = f"there are {', '.join(sorted(known))}" if known else "there are none here"
        errors = [FieldError(field=f"query.{name}", message=f"no such parameter; {has}") for name in strange]
        raise ProblemError(422, "invalid", f"query.{strange[0]}: no such parameter; {has}", errors=errors)
