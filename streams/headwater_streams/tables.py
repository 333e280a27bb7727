"""Faust's table manager, without its second of waiting at the start of an app that has no tables."""

from __future__ import annotations

from faust.tables import TableManager as FaustTableManager

__all__ = ["TableManager"]


class TableManager(FaustTableManager):
    """Faust waits one second for tables that are still to be declared. An app that declared none before it started
    does not wait; a table that it declares later is refused by Faust ("too late to add tables")."""

    async def on_start(self) -> None:
        if self:
            await super().on_start()
        else:
            await self._update_channels()
            await self.recovery.start()
