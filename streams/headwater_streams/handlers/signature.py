"""What a user's function takes, read from its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

__all__ = ["annotation", "positional"]


def positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that arguments given by position fill, in order."""
    return [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


def annotation(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The type that a parameter is annotated with, also where it was written as a string; ``None`` without one."""
    if parameter.annotation is inspect.Parameter.empty:
        return None
    return get_type_hints(function).get(parameter.name)
