"""Certificates for what Dask sends and receives: a folder for a team (``ATELIER_TLS``), or new ones in memory for one cluster.

The folder holds ``ca.pem``, ``cert.pem`` and ``key.pem``, and where it was made ``ca-key.pem``, which nobody else needs. Scheduler, workers and
clients show the same certificate, and each takes what this CA has signed; Dask looks at no host names. So who has ``key.pem`` is in.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import InvalidSettingError, StoreAccessError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from distributed.security import Security

FILES = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
CA_KEY = "ca-key.pem"
CA_DAYS = 3650
Pems = dict[str, str]


def security_of(pems: Pems | None) -> Security:
    """Dask's security for the three texts; None: no encryption, unless Dask's own configuration asks for it."""
    from distributed.security import Security

    if pems is None:
        return Security()
    roles = {f"tls_{role}_{part}": pems[part] for role in ("client", "scheduler", "worker") for part in ("cert", "key")}
    return Security(tls_ca_file=pems["ca"], require_encryption=True, **roles)


def read_pems(folder: Path) -> Pems:
    """The three texts of a folder, checked against each other.

    Raises:
        InvalidSettingError: a file is missing or none, the certificate is of another CA or key, or not valid today; all faults at once.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    folder = folder.expanduser()
    try:
        pems = {part: (folder / name).read_text() for part, name in FILES.items()}
    except (OSError, UnicodeDecodeError) as error:
        how = "`atelier cluster certificates FOLDER` makes such a folder"
        raise InvalidSettingError([f"tls: {folder} cannot be read ({error}); {how}"]) from None
    try:
        ca, cert = (x509.load_pem_x509_certificate(pems[part].encode()) for part in ("ca", "cert"))
        key = load_pem_private_key(pems["key"].encode(), None)
    except (ValueError, TypeError) as error:
        raise InvalidSettingError(
            [f"tls: {folder} holds what is no certificate or key in PEM, or a key with a password ({error})"]
        ) from None
    faults = []
    try:
        cert.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        faults.append(f"tls: {folder / FILES['cert']} was not signed by {FILES['ca']}")
    if cert.public_key() != key.public_key():
        faults.append(f"tls: {folder / FILES['key']} is not the key of {FILES['cert']}")
    now = datetime.datetime.now(tz=datetime.UTC)
    for name, one in ((FILES["ca"], ca), (FILES["cert"], cert)):
        if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
            faults.append(
                f"tls: {folder / name} is valid from {one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d} only"
            )
    if faults:
        raise InvalidSettingError(faults)
    return pems


def days_left(pems: Pems) -> int:
    """For how many days the certificate is still valid."""
    from cryptography import x509

    end = x509.load_pem_x509_certificate(pems["cert"].encode()).not_valid_after_utc
    return (end - datetime.datetime.now(tz=datetime.UTC)).days


def make_certificates(folder: Path, *, days: int = 365) -> list[Path]:
    """Write a CA and a certificate signed by it; where a CA lies already, only a new certificate. Returns what was written.

    Raises:
        StoreAccessError: the folder cannot be written, or its CA not be read.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        if (folder / CA_KEY).exists():
            ca_key = load_pem_private_key((folder / CA_KEY).read_bytes(), None)
            assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
            ca = x509.load_pem_x509_certificate((folder / FILES["ca"]).read_bytes())
        else:
            ca_key = ec.generate_private_key(ec.SECP256R1())
            ca = _sign("Atelier CA", ca_key, None, ca_key, CA_DAYS)
            written += [_write(folder / CA_KEY, _key_text(ca_key)), _write(folder / FILES["ca"], _text(ca))]
        key = ec.generate_private_key(ec.SECP256R1())
        written.append(_write(folder / FILES["key"], _key_text(key)))
        written.append(_write(folder / FILES["cert"], _text(_sign("Atelier", key, ca, ca_key, days))))
    except (OSError, ValueError) as error:
        raise StoreAccessError(str(folder), str(error), "Choose an empty folder that can be written.") from None
    return written


def make_pems() -> Pems:
    """Certificates for one cluster, in memory only."""
    from cryptography.hazmat.primitives.asymmetric import ec

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _sign("Atelier CA", ca_key, None, ca_key, CA_DAYS)
    return {"ca": _text(ca), "cert": _text(_sign("Atelier", key, ca, ca_key, CA_DAYS)), "key": _key_text(key)}


def _write(path: Path, text: str) -> Path:
    """Keys are written before anyone else could read them."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if "key" in path.name else 0o644)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    return path


def _text(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def _key_text(key: EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _sign(
    name: str, key: EllipticCurvePrivateKey, issuer: x509.Certificate | None, issuer_key: EllipticCurvePrivateKey, days: int
) -> x509.Certificate:
    """A certificate for the key; its own issuer, and a CA, if there is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(tz=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=issuer is not None,
                key_cert_sign=issuer is None,
                crl_sign=issuer is None,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if issuer is not None:
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(issuer_key, SHA256())
