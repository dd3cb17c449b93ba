"""gRPC's headers over HTTP/2: PROTOCOL-HTTP2 of gRPC, "Requests" and "Responses"."""

import base64
from urllib.parse import unquote_to_bytes

import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import Internal, InvalidArgument, NotFound
from headrace.rpc.turbo.headers import (
    NotGrpc,
    escaped,
    read_head,
    read_timeout,
    trailers_of_error,
    write_metadata,
)

REQUEST = (
    (b":method", b"POST"),
    (b":path", b"/p.S/M"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"5S", 5.0),
        (b"90m", 0.09),
        (b"2M", 120.0),
        (b"1H", 3600.0),
        (b"250u", 2.5e-4),
        (b"99999999n", 0.099999999),
        (b"0n", 0.0),
    ],
)
def test_a_timeout_is_digits_and_a_unit(value: bytes, seconds: float) -> None:
    assert read_timeout(value) == pytest.approx(seconds)


@given(
    st.binary(max_size=12).filter(
        lambda value: not (value[:-1].isdigit() and len(value) <= 9 and value[-1:] in b"HMSmun")
    )
)
def test_anything_else_is_no_timeout(value: bytes) -> None:
    with pytest.raises(InvalidArgument, match="grpc-timeout"):
        read_timeout(value)


def test_a_request_says_what_is_called_and_how() -> None:
    head = read_head(
        (*REQUEST, (b"grpc-timeout", b"3S"), (b"grpc-encoding", b"gzip"), (b"grpc-accept-encoding", b"gzip"))
    )
    assert (head.method, head.timeout_s, head.encoding, head.accepts) == ("/p.S/M", 3.0, b"gzip", b"gzip")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b":method", b"GET"), b"405"),
        ((b"content-type", b"application/json"), b"415"),
        ((b"content-type", b""), b"415"),
    ],
)
def test_what_is_not_grpc_is_told_so_by_http(change: tuple[bytes, bytes], status: bytes) -> None:
    with pytest.raises(NotGrpc) as refused:
        read_head(tuple(change if header[0] == change[0] else header for header in REQUEST))
    assert refused.value.status == status


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_.]{0,10}(-bin)?", fullmatch=True), st.binary(max_size=40), max_size=5
    )
)
def test_metadata_comes_as_it_was_written(sent: dict[str, bytes]) -> None:
    metadata = [
        (key, value if key.endswith("-bin") else value.hex()) for key, value in sent.items() if key != "te"
    ]
    assert list(read_head((*REQUEST, *write_metadata(metadata))).metadata) == metadata


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=4), st.booleans())
def test_binary_metadata_may_be_padded_and_several_in_one(values: list[bytes], padded: bool) -> None:
    parts = [base64.b64encode(value) if padded else base64.b64encode(value).rstrip(b"=") for value in values]
    metadata = read_head((*REQUEST, (b"k-bin", b",".join(parts)))).metadata
    assert metadata == tuple(("k-bin", value) for value in values)


def test_binary_metadata_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="k-bin"):
        read_head((*REQUEST, (b"k-bin", b"!!!")))


@given(st.text(max_size=60))
def test_any_message_travels_as_printable_ascii(message: str) -> None:
    value = escaped(message)
    assert all(0x20 <= byte <= 0x7E for byte in value)
    assert unquote_to_bytes(value) == message.encode()


def test_an_error_travels_with_its_details() -> None:
    trailers = dict(trailers_of_error(NotFound("no model 'x'")))
    assert trailers[b"grpc-status"] == b"5"
    assert unquote_to_bytes(trailers[b"grpc-message"]) == b"no model 'x'"
    details = trailers[b"grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(details + b"=" * (-len(details) % 4)))
    assert (status.code, status.message) == (5, "no model 'x'")


@pytest.mark.parametrize(
    "pair", [("Upper", "x"), ("", "x"), (":path", "x"), ("a b", "x"), ("a", "b\r\nc"), ("a", "ä")]
)
def test_metadata_that_http_does_not_allow_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(Internal, match="metadata"):
        write_metadata([pair])


@pytest.mark.parametrize(
    ("kind", "is_grpc"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
    ],
)
def test_what_is_not_grpc_is_told_so_as_http_does(kind: bytes, is_grpc: bool) -> None:
    headers = (*REQUEST[:-1], (b"content-type", kind))
    if is_grpc:
        assert read_head(headers).method == "/p.S/M"
    else:
        with pytest.raises(NotGrpc, match="415"):
            read_head(headers)
