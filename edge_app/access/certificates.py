"""Certificates: a board's own authority, and what it signs for the board and for each client.

Keys are ECDSA on P-256: gRPC's TLS library refuses Ed25519 certificates unless it is told otherwise.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_app.access.addresses import BOARD_NAME
from edge_app.access.pair import Pair
from edge_app.errors import BadRequest, TrustUnusable

AUTHORITY_DAYS = 20 * 365
BOARD_DAYS = 10 * 365
BEGINS = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""When every certificate begins: a board whose clock has not been set since it was switched on must be reachable."""
_NO_EARLIER = datetime(2026, 1, 1, tzinfo=timezone.utc)
"""Ends are counted from here where the clock says less: it is not set."""
_LABEL_BYTES = 46
"""What a certificate's name of at most 64 bytes has for the board's, which others may have too."""
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z)(?:{_PART}\.)*(?!\d+\Z){_PART}")


def authority(label: str, now: datetime) -> Pair:
    """A new authority, which signs for one board; its name begins with the board's, as much of it as there is room."""
    key = ec.generate_private_key(ec.SECP256R1())
    room = label.encode(errors="replace")[:_LABEL_BYTES].decode(errors="ignore")
    name = _name(f"parfocal {room} {secrets.token_hex(4)}")
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

    Raises:
        BadRequest: One of the names is neither a host name nor an address.
    """
    known = x509.SubjectAlternativeName([x509.DNSName(BOARD_NAME), *(_alternative(name) for name in names)])
    return _leaf(issuer, "board", ExtendedKeyUsageOID.SERVER_AUTH, _end(now, BOARD_DAYS), known)


def client(issuer: Pair, name: str, days: float, now: datetime) -> Pair:
    """A new key and certificate for one client."""
    return _leaf(issuer, name, ExtendedKeyUsageOID.CLIENT_AUTH, _end(now, days), None)


def can_name(name: str) -> bool:
    """Whether a certificate can be for this host name or address."""
    try:
        _alternative(name)
    except BadRequest:
        return False
    return True


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
        return key.public_key() == _read(pair.certificate).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


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
    if not isinstance(signs, ec.EllipticCurvePrivateKey):
        raise TrustUnusable("the authority's key is not one that parfocal makes (ECDSA); put a copy of that one back")
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
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, label)])


def _alternative(name: str) -> x509.GeneralName:
    """An address or a host name as certificates have it.

    Raises:
        BadRequest: It is neither.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        host = name.removesuffix(".").encode("idna").decode("ascii")
    except UnicodeError:
        host = ""
    if not _HOST.fullmatch(host):
        raise BadRequest(
            f"{name!r} is neither an IP address nor a host name, so no certificate was made; give what clients ask "
            "for, without scheme and port: scope-3.example or 192.0.2.7"
        )
    return x509.DNSName(host)
