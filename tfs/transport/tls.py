"""TLS settings of a listening port, and the checks and contexts made from them.

Owns: `TlsFiles` (PEM contents, as SSLConfig carries them), the ssl.SSLContext of REST.  Any thread.
"""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tfs.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM contents (not paths). With `client_verify` a client certificate signed by `client_ca` is required."""

    key: bytes
    certificate: bytes
    client_ca: bytes | None = None
    client_verify: bool = False


def server_context(tls: TlsFiles) -> ssl.SSLContext:
    """A server-side context for HTTP/1.1; raises InvalidArgument naming the part that is wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    # The ssl module reads keys from files only: a private directory, gone at once.
    with tempfile.TemporaryDirectory() as directory:
        key, certificate = Path(directory, "key.pem"), Path(directory, "certificate.pem")
        key.touch(mode=0o600)
        key.write_bytes(tls.key)
        certificate.write_bytes(tls.certificate)
        try:
            # A password callback, or OpenSSL would ask on the terminal.
            context.load_cert_chain(certificate, key, password=lambda: "")
        except (ssl.SSLError, ValueError) as error:
            raise InvalidArgument(
                f"SSL config: server_key and server_cert are no usable PEM pair: {error}"
            ) from None
    if tls.client_ca:
        try:
            context.load_verify_locations(cadata=tls.client_ca.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError) as error:
            raise InvalidArgument(f"SSL config: custom_ca is no usable PEM certificate: {error}") from None
    if tls.client_verify:
        if not tls.client_ca:
            raise InvalidArgument(
                "SSL config: client_verify needs custom_ca, the certificate that signs the clients'"
            )
        context.verify_mode = ssl.CERT_REQUIRED
    return context
