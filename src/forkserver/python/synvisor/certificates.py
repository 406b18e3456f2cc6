"""The certificates that the system trusts, read once for all processes.

A process of Synapse makes four TLS contexts when it starts, and each reads the whole bundle again: 5 ms of
CPU time. Here the certificates stay in memory; a file that has changed since is read as ever.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from OpenSSL.crypto import X509

Identity = tuple[int, int, int, int]


def share() -> None:
    """Has every TLS context of this process and its forks take the system's bundle from memory."""
    context: Any = SSL.Context
    load = context.load_verify_locations
    bundles = Bundles()

    def remembered(self: Any, cafile: Any, capath: Any = None) -> None:
        certificates = bundles.of(cafile) if capath is None else None
        if certificates is None:
            load(self, cafile, capath)
            return
        store = self.get_cert_store()
        for certificate in certificates:
            store.add_cert(certificate)

    def noting(self: Any, cafile: Any, capath: Any = None) -> None:
        load(self, cafile, capath)
        if cafile is not None:
            bundles.read(cafile)

    context.load_verify_locations = noting
    try:
        context(SSL.TLS_METHOD).set_default_verify_paths()
    finally:
        context.load_verify_locations = remembered


class Bundles:
    """Files of certificates, each with what tells whether it is still the same."""

    def __init__(self) -> None:
        self.known: dict[Any, tuple[Identity, list[X509]]] = {}

    def read(self, path: Any) -> None:
        """Remembers a file that holds certificates and nothing else."""
        with open(path, "rb") as file:
            identity = _identity(file.fileno())
            text = file.read()
        with warnings.catch_warnings():
            # Some that are widely trusted break rules that a warning would be given for.
            warnings.simplefilter("ignore")
            certificates = [X509.from_cryptography(one) for one in load_pem_x509_certificates(text)]
        # OpenSSL would also take revocations from it, and restrictions of what one is trusted for.
        if identity is not None and text.count(b"-----BEGIN ") == len(certificates):
            self.known[path] = identity, certificates

    def of(self, path: Any) -> list[X509] | None:
        identity, certificates = self.known.get(path, (None, None))
        return certificates if identity is not None and identity == _identity(path) else None


def _identity(path: Any) -> Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
