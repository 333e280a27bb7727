"""How far consumer groups are behind, asked from the brokers, so that it is known also while workers are dead."""

from headwater_ops.lag.collector import LagCollector
from headwater_ops.lag.reading import GroupLag, PartitionLag, read_lag
from headwater_ops.lag.status import Observation, Status, judge

__all__ = ["GroupLag", "LagCollector", "Observation", "PartitionLag", "Status", "judge", "read_lag"]
