"""What a server shows to callers who come by TLS, and what it asks of them."""

import ssl
import tempfile
from pathlib import Path
from typing import Any

import grpc


class TlsCredentials(grpc.ServerCredentials):
    """The credentials of a server, for either front end, or for any `grpc.Server`.

    Args:
        key: The private key, PEM.
        certificates: The server's certificate, and those between it and a root, PEM.
        roots: Roots of the certificates that callers must show, PEM; without any, callers need none.
    """

    def __init__(self, key: bytes, certificates: bytes, roots: bytes | None = None) -> None:
        made: Any = grpc.ssl_server_credentials(
            [(key, certificates)], root_certificates=roots, require_client_auth=roots is not None
        )
        super().__init__(made._credentials)  # noqa: SLF001 - grpcio offers no other way to keep what it was made from
        self._key = key
        self._certificates = certificates
        self._roots = roots

    def context(self) -> ssl.SSLContext:
        """Return the same for Python's own TLS.

        Raises:
            ssl.SSLError: Key and certificate are none, or do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION  # which HTTP/2 forbids (RFC 9113, 9.2.1)
        context.set_alpn_protocols(["h2"])
        with (
            tempfile.TemporaryDirectory() as folder
        ):  # which nobody else can enter; OpenSSL reads keys from files only
            chain = Path(folder) / "chain.pem"
            chain.write_bytes(self._key + b"\n" + self._certificates)
            context.load_cert_chain(chain)
        if self._roots is not None:
            context.load_verify_locations(cadata=self._roots.decode("ascii"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context
