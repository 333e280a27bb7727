"""The transactional outbox: events that are emitted if, and only if, a database transaction commits.

Needs the extra ``headwater-producers[outbox]``. ``Outbox.add`` writes an event into the transaction; a ``Relay`` (the
command ``headwater outbox relay``) sends what is committed.
"""

from headwater_producers.outbox.outbox import Outbox
from headwater_producers.outbox.parked import ParkedEvent, parked_events, retry_parked
from headwater_producers.outbox.relay import Relay, RelaySettings, make_engine
from headwater_producers.outbox.table import OutboxEvent, create_outbox

__all__ = [
    "Outbox",
    "OutboxEvent",
    "ParkedEvent",
    "Relay",
    "RelaySettings",
    "create_outbox",
    "make_engine",
    "parked_events",
    "retry_parked",
]
