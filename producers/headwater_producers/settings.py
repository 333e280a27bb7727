"""How a producer behaves: the ``HEADWATER_PRODUCER_*`` settings as one frozen value object."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from headwater_producers.backpressure import BackPressure, Block, Refuse, Spool
from headwater_schemas.errors import SettingError, UsageError
from headwater_schemas.rates import per_second
from headwater_schemas.settings import Environment, KafkaSettings

__all__ = ["ProducerSettings"]

_COMPRESSIONS: Final = ("none", "gzip", "snappy", "lz4", "zstd")


@dataclass(frozen=True, slots=True)
class ProducerSettings:
    """Settings of one producer; durations in seconds.

    Args:
        kafka: how to reach the brokers, and the largest record.
        queue_records: records that may wait for the broker; then ``back_pressure`` decides.
        queue_bytes: bytes of keys and values that may wait; the second limit. A multiple of 1024 is used.
        back_pressure: what ``emit`` does when the queue is full.
        delivery_timeout: how long a record may take until it is acknowledged; then its ``Delivery`` fails. Not with a
            spool, which keeps it.
        linger: how long a record may wait for others to share its batch. More is faster for many, later for one.
        compression: of batches. ``lz4`` and ``zstd`` cost little and shrink Avro well.
        exit_flush: how long an exiting interpreter waits for what a producer left open still holds.
        rate: events per second that ``emit`` lets through, a second's worth at once; ``None``: no limit. An emit beyond
            it waits as ``Block`` says, else raises ``Overloaded``.
        fail_fast: how long the broker may acknowledge nothing before ``emit`` raises ``BrokerUnavailable`` at once,
            until it answers again; ``None``: never. Not with a spool, which takes the events then.

    Raises:
        SettingError: a value is out of range; the message says what to pass.
    """

    kafka: KafkaSettings
    queue_records: int = 100_000
    queue_bytes: int = 256 * 1024 * 1024
    back_pressure: BackPressure = field(default_factory=Block)
    delivery_timeout: float = 120.0
    linger: float = 0.005
    compression: str = "lz4"
    exit_flush: float = 10.0
    rate: float | None = None
    fail_fast: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.queue_records <= 10_000_000:
            raise SettingError(f"HEADWATER_PRODUCER_QUEUE_RECORDS={self.queue_records}: pass 1 to 10000000")
        if not 1024 <= self.queue_bytes <= 2_097_151 * 1024:
            raise SettingError(f"HEADWATER_PRODUCER_QUEUE_BYTES={self.queue_bytes}: pass 1024 to 2147482624")
        if self.compression not in _COMPRESSIONS:
            raise SettingError(f"HEADWATER_PRODUCER_COMPRESSION={self.compression!r}: pass {', '.join(_COMPRESSIONS)}")
        if not 0 <= self.linger <= 900:
            raise SettingError(f"HEADWATER_PRODUCER_LINGER={self.linger}: pass 0 to 900 seconds, e.g. '5ms'")
        if not self.linger < self.delivery_timeout:
            raise SettingError(
                f"HEADWATER_PRODUCER_DELIVERY_TIMEOUT={self.delivery_timeout}: more than the linger ({self.linger} s)"
            )
        if self.rate is not None and not self.rate > 0:
            raise SettingError(f"HEADWATER_PRODUCER_RATE={self.rate}: pass more than zero, e.g. '500/s'")
        if self.fail_fast is not None and not self.fail_fast >= 1:
            raise SettingError(f"HEADWATER_PRODUCER_FAIL_FAST={self.fail_fast}: pass at least a second, e.g. '5s'")
        if self.fail_fast is not None and isinstance(self.back_pressure, Spool):
            raise SettingError("HEADWATER_PRODUCER_FAIL_FAST: leave it out, the spool takes events in an outage")

    @classmethod
    def from_env(cls, env: Environment | None = None) -> ProducerSettings:
        """Read ``HEADWATER_KAFKA_*`` and ``HEADWATER_PRODUCER_*``.

        Raises:
            SettingError: a value is malformed or a needed one is missing.
        """
        env = env or Environment()
        return cls(
            kafka=KafkaSettings.from_env(env),
            queue_records=env.integer("HEADWATER_PRODUCER_QUEUE_RECORDS", minimum=1),
            queue_bytes=env.integer("HEADWATER_PRODUCER_QUEUE_BYTES", minimum=1),
            back_pressure=_back_pressure(env),
            delivery_timeout=env.duration("HEADWATER_PRODUCER_DELIVERY_TIMEOUT"),
            linger=env.duration("HEADWATER_PRODUCER_LINGER"),
            compression=env.text("HEADWATER_PRODUCER_COMPRESSION"),
            exit_flush=env.duration("HEADWATER_PRODUCER_EXIT_FLUSH"),
            rate=_rate(env),
            fail_fast=env.duration("HEADWATER_PRODUCER_FAIL_FAST") if env.get("HEADWATER_PRODUCER_FAIL_FAST") else None,
        )

    def client_config(self) -> dict[str, Any]:
        """The librdkafka properties; a new dict at each call."""
        return {
            **self.kafka.client_config(),
            "enable.idempotence": True,  # implies acks=all, retries without end and order per partition
            "partitioner": "murmur2_random",  # the Java client's
            "message.max.bytes": self.kafka.max_record_bytes,
            "queue.buffering.max.messages": self.queue_records,
            "queue.buffering.max.kbytes": self.queue_bytes // 1024,
            # With a spool no record is ever given up: a gap would let later records of its key overtake it.
            "delivery.timeout.ms": 0 if isinstance(self.back_pressure, Spool) else round(self.delivery_timeout * 1000),
            # How long a topic that the broker does not know may still be on its way to it: 30 s by default.
            "topic.metadata.propagation.max.ms": 10_000,
            "linger.ms": self.linger * 1000,
            "compression.type": self.compression,
        }


def _rate(env: Environment) -> float | None:
    text = env.get("HEADWATER_PRODUCER_RATE")
    if text is None:
        return None
    try:
        return per_second(text)
    except UsageError as exc:
        raise SettingError(f"HEADWATER_PRODUCER_RATE: {exc}") from exc


def _back_pressure(env: Environment) -> BackPressure:
    policy = env.text("HEADWATER_PRODUCER_BACK_PRESSURE")
    if policy == "block":
        return Block(env.duration("HEADWATER_PRODUCER_BLOCK"))
    if policy == "refuse":
        return Refuse()
    if policy == "spool":
        return Spool(
            Path(env.text("HEADWATER_PRODUCER_SPOOL_DIR")).expanduser(),
            env.integer("HEADWATER_PRODUCER_SPOOL_BYTES", minimum=1),
            env.duration("HEADWATER_PRODUCER_SPOOL_AFTER"),
        )
    raise SettingError(f"HEADWATER_PRODUCER_BACK_PRESSURE={policy!r}: pass block, refuse or spool")
