"""Both front ends serve by TLS, and ask callers for certificates if they are told to."""

import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace.rpc.server import Server
from headrace.rpc.tls import TlsCredentials
from headrace.testing import handler

REQUEST = models_pb2.GetModelRequest(name="projects/default/models/digits")
METHOD = "headrace.registry.v1.Models/GetModel"


@pytest.fixture(params=[False, True], ids=["grpcio", "turbo"])
def turbo(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, PEM."""

    key: bytes
    certificate: bytes


class Authority:
    """Who signs certificates."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        built = self._built(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.root = built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def sign(self, name: str, *, alternatives: bool = True) -> Certificate:
        """Return a certificate for a name, and for this machine if it has alternative names."""
        key = ec.generate_private_key(ec.SECP256R1())
        built = self._built(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
        if alternatives:
            names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = built.sign(self._key, hashes.SHA256())
        return Certificate(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            signed.public_bytes(serialization.Encoding.PEM),
        )

    def _built(self, name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def who(_: Any, context: grpc.ServicerContext) -> models_pb2.Model:
    """Answer with what TLS knows of the caller."""
    known: Any = context.auth_context()
    kind, common = known.get("transport_security_type"), known.get("x509_common_name")
    identities: Any = context.peer_identities()
    parts = (
        kind and list(kind),
        common and list(common),
        identities and list(identities),
        context.peer_identity_key(),
    )
    return models_pb2.Model(name=repr(parts))


@contextmanager
def serving(authority: Authority, *, turbo: bool, mutual: bool = False) -> Iterator[str]:
    own = authority.sign("server")
    credentials = TlsCredentials(own.key, own.certificate, authority.root if mutual else None)
    server = Server("127.0.0.1:0", turbo=turbo, tls=credentials)
    handler(METHOD, who)(server)
    yield server.start()
    server.stop(0).wait()


def call(address: str, credentials: grpc.ChannelCredentials | None) -> str:
    made = (
        grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    )
    with made as channel:
        return models_pb2_grpc.ModelsStub(channel).GetModel(REQUEST, timeout=20).name


def test_callers_trust_the_server_by_its_certificate(authority: Authority, turbo: bool) -> None:
    with serving(authority, turbo=turbo) as address:
        seen = call(address, grpc.ssl_channel_credentials(authority.root))
    assert seen == repr(([b"ssl"], None, None, None))


def test_callers_who_trust_others_do_not_come(authority: Authority, turbo: bool) -> None:
    with serving(authority, turbo=turbo) as address, pytest.raises(grpc.RpcError) as raised:
        call(address, grpc.ssl_channel_credentials(Authority().root))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_callers_without_tls_are_sent_away(authority: Authority, turbo: bool) -> None:
    with serving(authority, turbo=turbo) as address, pytest.raises(grpc.RpcError) as raised:
        call(address, None)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("alternatives", [True, False])
def test_handlers_know_callers_by_their_certificates(
    authority: Authority, turbo: bool, alternatives: bool
) -> None:
    own = authority.sign("worker-7", alternatives=alternatives)
    with serving(authority, turbo=turbo, mutual=True) as address:
        seen = call(address, grpc.ssl_channel_credentials(authority.root, own.key, own.certificate))
    names, key = (
        ([b"worker-7", b"127.0.0.1"], "x509_subject_alternative_name")
        if alternatives
        else ([b"worker-7"], "x509_common_name")
    )
    assert seen == repr(([b"ssl"], [b"worker-7"], names, key))


def test_callers_without_a_certificate_of_the_authority_are_sent_away(
    authority: Authority, turbo: bool
) -> None:
    stranger = Authority().sign("stranger")
    with serving(authority, turbo=turbo, mutual=True) as address:
        for own in ((None, None), (stranger.key, stranger.certificate)):
            with pytest.raises(grpc.RpcError) as raised:
                call(address, grpc.ssl_channel_credentials(authority.root, *own))
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_who_agrees_on_no_http2_is_sent_away(authority: Authority) -> None:
    trusting = ssl.create_default_context(cadata=authority.root.decode())
    with serving(authority, turbo=True) as address:
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), 20) as plain,
            trusting.wrap_socket(plain, server_hostname=host) as caller,
        ):
            assert _hangs_up(caller)


def _hangs_up(caller: ssl.SSLSocket) -> bool:
    try:
        return caller.recv(1) == b""
    except (ConnectionError, ssl.SSLError):
        return True
