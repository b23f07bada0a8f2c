"""Certificates for one run: an authority, the edge's certificate, and that of one agent."""

import datetime as dt
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ops.bench.job import ClientTls
from ops.embedded.files import write_private
from schemas.units import Clock

TRUST_DOMAIN = "bench.example"
_DAY = dt.timedelta(days=1)


class Certificates(NamedTuple):
    """What the edge is told, by variable, and what the agent's client needs."""

    edge: dict[str, str]
    client: ClientTls


def make_certificates(directory: Path, tenant_id: str, agent_id: str, clock: Clock) -> Certificates:
    """Files in `directory`, valid for a day: for an edge on 127.0.0.1 and for that agent."""
    authority = _Authority(directory, clock)
    server = authority.issue(
        "server", x509.IPAddress(ipaddress.ip_address("127.0.0.1")), ExtendedKeyUsageOID.SERVER_AUTH
    )
    name = f"spiffe://{TRUST_DOMAIN}/tenant/{tenant_id}/agent/{agent_id}"
    client = authority.issue("client", x509.UniformResourceIdentifier(name), ExtendedKeyUsageOID.CLIENT_AUTH)
    return Certificates(
        {
            "FG_TLS_CERT_FILE": server.certificate,
            "FG_TLS_KEY_FILE": server.key,
            "FG_TLS_CLIENT_CA_FILE": authority.file,
            "FG_TLS_TRUST_DOMAIN": TRUST_DOMAIN,
        },
        ClientTls(authority.file, client.certificate, client.key),
    )


class _Files(NamedTuple):
    certificate: str
    key: str


class _Authority:
    def __init__(self, directory: Path, clock: Clock) -> None:
        self._directory = directory
        self._now = dt.datetime.fromtimestamp(clock.now_ms() / 1000, dt.UTC)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
        usage = _usage(signs_certificates=True)
        authority = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
        )
        self.file = self._written("authority.pem", authority)

    def issue(self, name: str, subject: x509.GeneralName, use: x509.ObjectIdentifier) -> _Files:
        """Write a certificate of that name for that use, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        common_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(common_name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        )
        key_file = self._directory / f"{name}.key"
        plain = serialization.NoEncryption()
        write_private(key_file, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        return _Files(self._written(f"{name}.pem", certificate), str(key_file))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _DAY)
            .not_valid_after(self._now + _DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def _written(self, name: str, certificate: x509.CertificateBuilder) -> str:
        file = self._directory / name
        file.write_bytes(certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return str(file)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
