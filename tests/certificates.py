"""Certificate authorities of a test's own, and the certificates that they sign for servers of this machine."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from headwater_ops.stack.ports import HOST

__all__ = ["authority"]

_Key = ec.EllipticCurvePrivateKey


def authority(certificate: Path, keystore: Path | None = None) -> None:
    """A new authority; with ``keystore``, also a key and a certificate that it signed for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(certificate.stem)
    own = _signed(name, key, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate.write_bytes(own.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    if keystore is not None:
        server_key = ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))])
        server = _signed(_name("server"), server_key, name, key).add_extension(address, critical=False)
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
