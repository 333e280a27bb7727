"""Headwater producers: emit events that are not lost once accepted.

The nouns: a ``EventProducer`` emits an event and gives a ``Delivery``; ``ProducerSettings`` say how.
"""

from headwater_producers.backpressure import BackPressure, Block, Refuse, Spool
from headwater_producers.delivery import Delivery
from headwater_producers.errors import DeliveryPending, ProducerClosed, SpoolUnavailable
from headwater_producers.producer import EventProducer
from headwater_producers.settings import ProducerSettings

__all__ = [
    "BackPressure",
    "Block",
    "Delivery",
    "DeliveryPending",
    "EventProducer",
    "ProducerClosed",
    "ProducerSettings",
    "Refuse",
    "Spool",
    "SpoolUnavailable",
]
