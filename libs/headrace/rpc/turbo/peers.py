"""Who is at the other end of a connection."""

import asyncio
import ssl
from collections.abc import Iterable, Mapping


def peer_name(transport: asyncio.BaseTransport) -> str:
    """Name the caller as grpcio does."""
    found = transport.get_extra_info("peername")
    if not isinstance(found, tuple):
        return "unix:"
    host, port, *_ = found
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"


def speaks_http2(transport: asyncio.BaseTransport) -> bool:
    """Tell whether HTTP/2 was agreed on, which without TLS is known before (RFC 9113, 3.3)."""
    tls = transport.get_extra_info("ssl_object")
    return tls is None or tls.selected_alpn_protocol() == "h2"


def identity_of(transport: asyncio.BaseTransport) -> Mapping[str, Iterable[bytes]]:
    """Return what TLS knows of the caller, under the names that grpcio's `auth_context` uses; empty without TLS."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return {}
    identity: dict[str, Iterable[bytes]] = {"transport_security_type": (b"ssl",)}
    certificate = tls.getpeercert()
    if not certificate:
        return identity
    identity["x509_pem_cert"] = (ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True)).encode(),)
    names = [value.encode() for part in certificate["subject"] for key, value in part if key == "commonName"]
    alternatives = [value.encode() for _, value in certificate.get("subjectAltName", ())]
    if names:
        identity["x509_common_name"] = names
    if alternatives:
        identity["x509_subject_alternative_name"] = alternatives
    return identity
