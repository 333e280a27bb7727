"""The demo's contracts. They are in no other catalogue, so that no installation gets topics of flights."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from headwater_schemas.catalogue import PACKAGE_FOLDER, Catalogue

__all__ = ["CONTRACT_FOLDER", "demo_catalogue"]

CONTRACT_FOLDER: Final = Path(__file__).parent
"""For ``HEADWATER_CONTRACTS``, where other commands are to know the demo's topics."""


def demo_catalogue() -> Catalogue:
    """What comes with Headwater and the demo's own, whatever ``HEADWATER_CONTRACTS`` says. Reads files."""
    return Catalogue.load(PACKAGE_FOLDER, CONTRACT_FOLDER)
