"""Certificates: a board's own authority, and what it signs for the board and for each client.

Keys are ECDSA on P-256: gRPC's TLS library refuses Ed25519 certificates unless it is told otherwise.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_app.access.addresses import BOARD_NAME
from edge_app.access.pair import Pair
from edge_app.errors import TrustUnusable

AUTHORITY_DAYS = 20 * 365
BOARD_DAYS = 10 * 365
BEGINS = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""When every certificate begins: a board whose clock has not been set since it was switched on must be reachable."""
_NO_EARLIER = datetime(2026, 1, 1, tzinfo=timezone.utc)
"""Ends are counted from here where the clock says less: it is not set."""


def authority(label: str, now: datetime) -> Pair:
    """A new authority, which signs for one board."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(label)
    builder = _builder(name, name, key, _end(now, AUTHORITY_DAYS)).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    usage = _usage(key_cert_sign=True, crl_sign=True, digital_signature=False)
    return _signed(builder.add_extension(usage, critical=True), key, key)


def board(issuer: Pair, names: Sequence[str], now: datetime) -> Pair:
    """A new key and certificate for the board itself.

    Args:
        issuer: The board's authority.
        names: Host names and addresses at which it is reached, besides BOARD_NAME.
        now: What the clock says.
    """
    known = x509.SubjectAlternativeName([x509.DNSName(BOARD_NAME), *(_alternative(name) for name in names)])
    return _leaf(issuer, "board", ExtendedKeyUsageOID.SERVER_AUTH, _end(now, BOARD_DAYS), known)


def client(issuer: Pair, name: str, days: float, now: datetime) -> Pair:
    """A new key and certificate for one client."""
    return _leaf(issuer, name, ExtendedKeyUsageOID.CLIENT_AUTH, _end(now, days), None)


def ends(certificate: bytes) -> datetime:
    """When a certificate ends.

    Raises:
        TrustUnusable: It is none.
    """
    return _read(certificate).not_valid_after_utc


def expiry(days: float, now: datetime) -> datetime:
    """When something ends that is made now and holds for so many days."""
    return _end(now, days)


def fingerprint(certificate: bytes) -> str:
    """The SHA-256 of a certificate's DER, in hexadecimal.

    Raises:
        TrustUnusable: It is none.
    """
    return hashlib.sha256(_read(certificate).public_bytes(serialization.Encoding.DER)).hexdigest()


def belong_together(pair: Pair) -> bool:
    """Whether a key is the one of its certificate."""
    try:
        key = serialization.load_pem_private_key(pair.key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return key.public_key() == _read(pair.certificate).public_key()


def _read(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise TrustUnusable("this is not a certificate in PEM; make it anew with `parfocal trust`") from error


def _end(now: datetime, days: float) -> datetime:
    return max(now, _NO_EARLIER) + timedelta(days=days)


def _leaf(
    issuer: Pair, label: str, purpose: x509.ObjectIdentifier, end: datetime, names: x509.SubjectAlternativeName | None
) -> Pair:
    """A key and a certificate for one purpose: a client's kit must not do to play the board before another client."""
    parent = _read(issuer.certificate)
    signs = serialization.load_pem_private_key(issuer.key, password=None)
    assert isinstance(signs, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(end, parent.not_valid_after_utc)
    builder = (
        _builder(_name(label), parent.subject, key, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signs.public_key()), critical=False)
        .add_extension(_usage(digital_signature=True), critical=True)
    )
    return _signed(builder if names is None else builder.add_extension(names, critical=False), key, signs)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGINS)
        .not_valid_after(end.replace(microsecond=0))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey) -> Pair:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(pem, builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _usage(digital_signature: bool, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(label: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, label[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
