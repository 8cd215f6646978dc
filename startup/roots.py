"""Where an image keeps the root certificates that it trusts, for an OpenSSL that was built for another place.

That is psycopg's, which looks in a directory that no image has, and the bundle's, whose Python shares it. The places
are those of Go's crypto/x509 (root_linux.go). The standard library alone, as in ping/.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl

FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # CentOS
    "/etc/ssl/cert.pem",  # Alpine
)
DIRECTORIES = ("/etc/ssl/certs", "/etc/pki/tls/certs")
#: For whoever needs them where there are none.
MISSING = (
    f"this image has no root certificates (looked for {FILES[0]} and {len(FILES) + len(DIRECTORIES) - 1} others): "
    "right would be to install ca-certificates, to COPY that file from an image that has it, or SSL_CERT_FILE"
)


def find() -> tuple[str, str]:
    """What OpenSSL reads, and the path: what the user has set, else the image's; both empty where there is none."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if path := os.environ.get(name):
            return name, path
    for path in FILES:
        if os.path.isfile(path):
            return "SSL_CERT_FILE", path
    for path in DIRECTORIES:
        if os.path.isdir(path) and os.listdir(path):
            return "SSL_CERT_DIR", path
    return "", ""


def add_to(context: ssl.SSLContext) -> None:
    """The image's, beside those that Python's own OpenSSL has found. ssl.SSLError: they cannot be read."""
    name, path = find()
    if path and not os.environ.get(name):
        context.load_verify_locations(**{"cafile" if name == "SSL_CERT_FILE" else "capath": path})


def make_known() -> bool:
    """Tell OpenSSL in this process of them (openssl-env(7)); False where the image has none.

    What the user has set stays. No command, hook or app sees it: their environments are made from os.environ.
    """
    name, path = find()
    if path and not os.environ.get(name):
        os.putenv(name, path)
    return bool(path)


def in_bundle() -> bool:
    """Is this the bundle's own Python, with an OpenSSL that is not the image's?"""
    return os.path.isdir(os.path.join(sys.prefix, "lib", "packages", "startup"))


def make_known_in_bundle() -> None:
    """For Python's own https there; any other Python's OpenSSL knows its place, which is not to be overridden."""
    if in_bundle():
        make_known()


@contextmanager
def known() -> Iterator[bool]:
    """:func:`make_known` for psycopg's OpenSSL: in the block alone, unless Python shares that."""
    try:
        yield make_known()
    finally:
        if not in_bundle():
            for name in {"SSL_CERT_FILE", "SSL_CERT_DIR"} - {*os.environ}:
                os.unsetenv(name)


def forget_the_images_openssl() -> None:
    """Its configuration names modules of its own, such as `legacy`: without them the bundle's has no ciphers at all.

    In os.environ they stay, for commands and hooks.
    """
    if in_bundle():
        for name in ("OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES"):
            os.unsetenv(name)
