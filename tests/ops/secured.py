"""A broker with TLS, SCRAM and ACLs that speaks only the classic group protocol, and settings that get in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from confluent_kafka.cimpl import NewTopic

from backends.embedded import embedded
from certificates import authority
from headwater_ops.stack.aot import AotCaches
from headwater_ops.stack.download import Downloads
from headwater_ops.stack.endpoints import cache_dir
from headwater_ops.stack.kafka import Broker, new_id
from headwater_ops.stack.ports import HOST, choose
from headwater_schemas.settings import Environment

__all__ = ["Secured", "secured_broker"]

_USER, _PASSWORD = "jane", "a long secret"


@dataclass(frozen=True, slots=True)
class Secured:
    """``jane`` may do all with topics and groups whose names begin with ``orders``; and nothing else.

    Args:
        admin: of the plain listener, where everything is allowed.
        plain: the address of that.
        address: of the listener where ``jane`` logs in.
        ca: who signed the broker's certificate.
        other_ca: somebody else.
    """

    admin: AdminClient
    plain: str
    address: str
    ca: Path
    other_ca: Path

    def settings(self, **changes: str) -> dict[str, str]:
        """As ``jane``; ``changes`` without their ``HEADWATER_KAFKA_SECURITY_``."""
        security = {
            "PROTOCOL": "SASL_SSL",
            "MECHANISM": "SCRAM-SHA-512",
            "USERNAME": _USER,
            "PASSWORD": _PASSWORD,
            "CA": str(self.ca),
        } | changes
        return {f"HEADWATER_KAFKA_SECURITY_{name}": value for name, value in security.items()} | {
            "HEADWATER_KAFKA_BOOTSTRAP": self.address,
            "HEADWATER_WORKER_COMMIT_INTERVAL": "100ms",
        }

    def env(self, **changes: str) -> Environment:
        return Environment(self.settings(**changes))

    def grant(self, operation: AclOperation, kind: ResourceType, name: str) -> None:
        """Let ``jane`` do one thing more."""
        rule = _rule(operation, kind, name, ResourcePatternType.LITERAL)
        self.admin.create_acls([rule])[rule].result(30)

    def create(self, topic: str) -> str:
        self.admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
        return topic


@contextmanager
def secured_broker(folder: Path) -> Iterator[Secured]:
    """Start it; it ends with the block, and with the process."""
    ca, other_ca, keystore = folder / "ca.pem", folder / "other.pem", folder / "broker.pem"
    authority(other_ca)
    authority(ca, keystore)
    ports: dict[str, int] = {}
    for listener in ("client", "controller", "secure"):
        ports[listener] = choose("free", 0, ports.values(), listener)
    with embedded(folder) as stack:  # whose janitor stops whatever runs in its folder
        broker = Broker(
            1,
            stack.state_dir / "stack" / "broker-1",
            ports,
            cluster_id=new_id(),
            controllers={1: ports["controller"]},
            downloads=Downloads(cache_dir()),
            aot=AotCaches(cache_dir()),
            properties=_properties(ports, keystore),
        )
        broker.start(120.0)
        admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
        _let_in(admin)
        yield Secured(admin, broker.address, f"{HOST}:{ports['secure']}", ca, other_ca)


def _properties(ports: dict[str, int], keystore: Path) -> dict[str, str]:
    addresses = {"PLAINTEXT": ports["client"], "CONTROLLER": ports["controller"], "SASL_SSL": ports["secure"]}
    listeners = {name: f"{name}://{HOST}:{port}" for name, port in addresses.items()}
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    return {
        "listeners": ",".join(listeners.values()),
        "advertised.listeners": f"{listeners['PLAINTEXT']},{listeners['SASL_SSL']}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "group.coordinator.rebalance.protocols": "classic",
    }


def _let_in(admin: AdminClient) -> None:
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    user = UserScramCredentialUpsertion(_USER, info, _PASSWORD.encode())
    rules = [
        _rule(AclOperation.ALL, kind, "orders", ResourcePatternType.PREFIXED)
        for kind in (ResourceType.TOPIC, ResourceType.GROUP)
    ]
    for answer in [*admin.alter_user_scram_credentials([user]).values(), *admin.create_acls(rules).values()]:
        answer.result(30)


def _rule(operation: AclOperation, kind: ResourceType, name: str, pattern: ResourcePatternType) -> AclBinding:
    return AclBinding(kind, name, pattern, f"User:{_USER}", "*", operation, AclPermissionType.ALLOW)
