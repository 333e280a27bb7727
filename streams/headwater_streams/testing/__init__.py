"""Run handlers in memory: the real engine on a log that is a list, with a clock that is turned by hand.

    kit = StreamKit(app)
    async with kit:
        kit.send("orders.placed", {"order_id": "o-1"}, key="o-1")
        await kit.settle()                       # everything that can run has run
        await kit.advance("10s")                 # retries that are due by then run
        assert kit.dead_letters("orders.placed") == []

What is real: runners, lanes, retries, parking, dead letters, commits, fences. What is not: brokers, networks, time. The
same tests of behaviour pass here and on Kafka.
"""

from headwater_streams.testing.broker import MemoryBroker, MemoryMessage
from headwater_streams.testing.kit import StreamKit

__all__ = ["MemoryBroker", "MemoryMessage", "StreamKit"]
