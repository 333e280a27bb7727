from __future__ import annotations

import pkgutil
from importlib import import_module

import headwater_schemas
from headwater_schemas import errors
from headwater_schemas.errors import BadRecord, HeadwaterError, InvalidValue, Unavailable, UsageError


def classes() -> list[type[HeadwaterError]]:
    return [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, HeadwaterError)]


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    names = {cls.__name__ for cls in classes()}

    assert names == set(errors.__all__)
    assert all(name in (errors.__doc__ or "") for name in names)


def test_every_error_says_what_the_caller_does() -> None:
    """One of three branches: fix the call, dead-letter the record, or wait."""
    branches = {UsageError, BadRecord, Unavailable}

    for cls in set(classes()) - branches - {HeadwaterError}:
        assert sum(issubclass(cls, branch) for branch in branches) == 1, cls


def test_an_invalid_value_carries_its_field() -> None:
    assert InvalidValue("bad", field="a.b").field == "a.b"
    assert InvalidValue("bad").field is None


def test_what_a_module_exports_exists() -> None:
    for module in pkgutil.walk_packages(headwater_schemas.__path__, "headwater_schemas."):
        loaded = import_module(module.name)
        assert hasattr(loaded, "__all__"), module.name
        assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == [], module.name
