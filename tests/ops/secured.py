"""A broker with TLS, SCRAM and ACLs that speaks only the classic group protocol, and settings that get in."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from confluent_kafka.cimpl import NewTopic
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from backends.embedded import embedded
from headwater_ops.stack.download import Downloads
from headwater_ops.stack.endpoints import cache_dir
from headwater_ops.stack.kafka import Broker, new_cluster_id
from headwater_ops.stack.ports import HOST, choose
from headwater_schemas.settings import Environment

__all__ = ["Secured", "secured_broker"]

_Key = ec.EllipticCurvePrivateKey
_USER, _PASSWORD = "jane", "a long secret"


@dataclass(frozen=True, slots=True)
class Secured:
    """``jane`` may do all with topics and groups whose names begin with ``orders``; and nothing else.

    Args:
        admin: of the plain listener, where everything is allowed.
        ca: who signed the broker's certificate.
        other_ca: somebody else.
    """

    admin: AdminClient
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

    def create(self, topic: str) -> str:
        self.admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
        return topic


@contextmanager
def secured_broker(folder: Path) -> Iterator[Secured]:
    """Start it; it ends with the block, and with the process."""
    ca, other_ca, keystore = folder / "ca.pem", folder / "other.pem", folder / "broker.pem"
    _authority(other_ca, None)
    _authority(ca, keystore)
    ports: dict[str, int] = {}
    for listener in ("client", "controller", "secure"):
        ports[listener] = choose("free", 0, ports.values(), listener)
    with embedded(folder) as stack:  # whose janitor stops whatever runs in its folder
        broker = Broker(
            1,
            stack.state_dir / "stack" / "broker-1",
            ports,
            cluster_id=new_cluster_id(),
            controllers={1: ports["controller"]},
            downloads=Downloads(cache_dir()),
            properties=_properties(ports, keystore),
        )
        broker.start(120.0)
        admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
        _let_in(admin)
        yield Secured(admin, f"{HOST}:{ports['secure']}", ca, other_ca)


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
        AclBinding(
            kind,
            "orders",
            ResourcePatternType.PREFIXED,
            f"User:{_USER}",
            "*",
            AclOperation.ALL,
            AclPermissionType.ALLOW,
        )
        for kind in (ResourceType.TOPIC, ResourceType.GROUP)
    ]
    for answer in [*admin.alter_user_scram_credentials([user]).values(), *admin.create_acls(rules).values()]:
        answer.result(30)


def _authority(certificate: Path, keystore: Path | None) -> None:
    """A new authority; with ``keystore``, also a key and a certificate that it signed for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(certificate.stem)
    own = _signed(name, key, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate.write_bytes(own.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    if keystore is not None:
        server_key = ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))])
        server = _signed(_name("broker"), server_key, name, key).add_extension(address, critical=False)
        private = server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        keystore.write_bytes(private + server.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _signed(subject: x509.Name, key: _Key, issuer: x509.Name, issuer_key: _Key) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )
