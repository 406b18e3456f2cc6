"""The system's certificates in memory: the same trust as from the file, and never an old one's."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509StoreContext, X509StoreContextError


def authority(name: str) -> tuple[X509, str]:
    """A certificate that signs itself, and its text."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(
        now + datetime.timedelta(1)
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    made = builder.sign(key, hashes.SHA256())
    return X509.from_cryptography(made), made.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The files that OpenSSL itself was told to read."""
    files: list[Any] = []
    load = SSL.Context.load_verify_locations

    def counting(self: Any, cafile: Any, capath: Any = None) -> None:
        files.append(cafile)
        load(self, cafile, capath)

    monkeypatch.setattr(SSL.Context, "load_verify_locations", counting)
    return files


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    def shared(bundle: Path) -> None:
        from synvisor import certificates

        def default(self: Any) -> None:
            self.load_verify_locations(str(bundle))

        monkeypatch.setattr(SSL.Context, "set_default_verify_paths", default)
        certificates.share()

    return shared


def trusts(certificate: X509) -> bool:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_default_verify_paths()
    store = context.get_cert_store()
    assert store is not None
    try:
        X509StoreContext(store, certificate).verify_certificate()
    except X509StoreContextError:
        return False
    return True


# Mutation: add_cert() left out of `remembered`: seen red.
def test_what_the_bundle_holds_is_trusted_without_reading_it(
    tmp_path: Path, read: list[Any], share: Callable[[Path], None]
) -> None:
    bundle = tmp_path / "bundle.pem"
    (first, one), (second, two), (stranger, _) = authority("a"), authority("b"), authority("c")
    bundle.write_text(one + two)
    share(bundle)
    assert read == [str(bundle)]
    assert (trusts(first), trusts(second), trusts(stranger)) == (True, True, False)
    assert read == [str(bundle)]


# Mutation: the identity not compared in of(): seen red.
def test_a_bundle_that_changed_is_read_again(
    tmp_path: Path, read: list[Any], share: Callable[[Path], None]
) -> None:
    bundle = tmp_path / "bundle.pem"
    (old, one), (new, two) = authority("a"), authority("b")
    bundle.write_text(one)
    share(bundle)
    replacement = tmp_path / "new.pem"
    replacement.write_text(two)
    replacement.rename(bundle)
    assert (trusts(old), trusts(new)) == (False, True)
    assert len(read) == 3


# Mutation: the count of blocks not compared in read(): seen red.
def test_a_bundle_of_more_than_certificates_is_left_to_openssl(
    tmp_path: Path, read: list[Any], share: Callable[[Path], None]
) -> None:
    bundle = tmp_path / "bundle.pem"
    certificate, text = authority("a")
    bundle.write_text(text + text.replace("CERTIFICATE", "TRUSTED CERTIFICATE"))
    share(bundle)
    trusts(certificate)
    assert read == [str(bundle)] * 2
