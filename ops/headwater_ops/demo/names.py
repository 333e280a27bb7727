"""Enrichment: what the cache says about the aircraft, airline and airport of a flight."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from headwater_ops.demo.entities import AIRLINE, AIRPORT, PLANE, Entities

__all__ = ["Names"]

Value = dict[str, Any]
_Found = Mapping[str, Value]


class Names:
    """Those of a batch. Aircraft and airports that the data does not list stay unknown."""

    def __init__(self, planes: _Found = {}, airports: _Found = {}, airlines: _Found = {}) -> None:  # noqa: B006 - read only
        self._planes = planes
        self._airports = airports
        self._airlines = airlines

    @classmethod
    async def read(cls, entities: Entities, scheduled: Iterable[Value]) -> Names:
        """The names for ``flights.scheduled`` events, in three round trips made at once.

        Raises:
            Unavailable: Redis does not answer, or a view has not caught up with its log.
        """
        events = list(scheduled)
        wanted = {
            PLANE: {event["tail_number"] for event in events} - {None},
            AIRPORT: {event["destination"] for event in events},
            AIRLINE: {event["carrier"] for event in events},
        }
        views = (entities.view(entity).aget_many(sorted(keys)) for entity, keys in wanted.items())
        return cls(*await asyncio.gather(*views))

    def of(self, scheduled: Mapping[str, Any]) -> Value:
        """The fields that a flight takes over."""
        plane = self._planes.get(scheduled["tail_number"])
        airport = self._airports.get(scheduled["destination"])
        airline = self._airlines.get(scheduled["carrier"])
        return {
            "airline": airline and airline["name"],
            "destination_name": airport and airport["name"],
            "aircraft": plane and f"{plane['manufacturer']} {plane['model']}",
            "seats": plane and plane["seats"],
        }
