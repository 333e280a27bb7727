"""The schema registry (Confluent-compatible), behind caches, with its three outcomes told apart.

An id that the registry does not know is the record's fault (``NotDecodable``: dead-letter it). A registry that does not
answer is nobody's fault (``RegistryUnavailable``: wait). A schema that it refuses is the caller's (``UsageError``).

Ids and their schemas never change, so they are cached for good. Unknown ids are remembered for a short time, so that a
flood of one poison record asks once; a flood of records with ever different ids still asks once per id.
"""

from headwater_schemas.registry.base import SchemaRegistry
from headwater_schemas.registry.client import Registry
from headwater_schemas.registry.local import LocalRegistry

__all__ = ["LocalRegistry", "Registry", "SchemaRegistry"]
