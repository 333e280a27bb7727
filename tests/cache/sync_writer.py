"""Writes to a view, in a process to be killed: ``python -m cache.sync_writer BOOTSTRAP REDIS_URL ENTITY SEED``."""

from __future__ import annotations

import random
import sys

from cache.sync_worker import codec
from headwater_cache import EntityCache
from headwater_producers import EventProducer, ProducerSettings
from headwater_schemas.catalogue import Catalogue, TopicSpec
from headwater_schemas.settings import KafkaSettings
from headwater_streams.change_log import KafkaChangeLog

KEYS = "abcdefgh"


def main(bootstrap: str, redis_url: str, entity: str, seed: str) -> None:
    """Put and delete for ever: each write is in the log first, then in Redis."""
    rng, shared = random.Random(int(seed)), codec()
    spec = TopicSpec(f"{entity}.changes", schema="ChangeEvent", partitions=2, replication=1, cleanup="compact")
    catalogue = Catalogue.of(topics=[spec], schemas=[shared.catalogue.schema("ChangeEvent")])
    settings = ProducerSettings(KafkaSettings(bootstrap))
    with EventProducer(settings, catalogue, shared.registry, source="test") as producer:
        view = EntityCache[int](entity, redis_url, log=KafkaChangeLog(producer, source="test"), cold="miss")
        while True:
            key = rng.choice(KEYS)
            if rng.random() < 0.3:
                view.delete(key)
            else:
                view.put(key, rng.randrange(1000))


if __name__ == "__main__":
    main(*sys.argv[1:])
