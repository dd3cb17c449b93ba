"""The turbo front end keeps RFC 9113 (HTTP/2), RFC 7541 (HPACK) and gRPC's own rules where a caller breaks them; names begin with the section."""

from collections.abc import Iterator, Mapping

import pytest

from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace.testing import handler, serve
from headrace.testing.server import ServedChannel
from tests.services.headrace.bare_http2 import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Header,
    Wire,
    frame,
    literal,
    message,
    request_headers,
    wire,
)

PADDED = 0x8
REQUEST = models_pb2.GetModelRequest(name="projects/default/models/digits")
METHOD = "headrace.registry.v1.Models/GetModel"
PATH = f"/{METHOD}"
BODY = message(REQUEST.SerializeToString())
HEAD = request_headers(PATH)
OPEN = frame(HEADERS, END_HEADERS, 1, literal(HEAD))
WHOLE = OPEN + frame(DATA, END_STREAM, 1, BODY)
MOST = (1 << 31) - 1


def setting(number: int, value: int) -> bytes:
    return frame(SETTINGS, payload=number.to_bytes(2, "big") + value.to_bytes(4, "big"))


def window(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def head(*headers: Header) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, 1, literal(headers))


def without(name: bytes) -> bytes:
    return head(*(header for header in HEAD if header[0] != name))


def packed(block: bytes) -> bytes:
    return frame(HEADERS, END_HEADERS, 1, block)


# What is sent, and the errors of which one is said, of the stream or of the connection.
WRONG: Mapping[str, tuple[bytes, set[int]]] = {
    "4_2_a_frame_larger_than_was_said": (frame(DATA, 0, 1, bytes(1 << 15)), {FRAME_SIZE_ERROR}),
    "4_3_headers_that_cannot_be_unpacked": (packed(b"\xff" * 8), {COMPRESSION_ERROR}),
    "5_1_data_before_headers": (frame(DATA, 0, 1, b"x"), {PROTOCOL_ERROR}),
    "5_1_a_reset_before_headers": (frame(RST_STREAM, 0, 1, bytes(4)), {PROTOCOL_ERROR}),
    "5_1_a_window_before_headers": (window(1, 1), {PROTOCOL_ERROR}),
    "5_1_data_after_the_end": (head(*HEAD) + frame(DATA, 0, 1, b"x"), {STREAM_CLOSED}),
    "5_1_headers_after_the_end": (head(*HEAD) + head(*HEAD), {STREAM_CLOSED, PROTOCOL_ERROR}),
    "5_1_1_an_even_number": (frame(HEADERS, END_HEADERS, 2, literal(HEAD)), {PROTOCOL_ERROR}),
    "6_1_data_of_no_stream": (frame(DATA, 0, 0, b"x"), {PROTOCOL_ERROR}),
    "6_1_more_padding_than_data": (OPEN + frame(DATA, PADDED, 1, b"\x09x"), {PROTOCOL_ERROR}),
    "6_2_headers_of_no_stream": (frame(HEADERS, END_HEADERS, 0, literal(HEAD)), {PROTOCOL_ERROR}),
    "6_2_more_padding_than_headers": (
        frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + literal(HEAD)[:50]),
        {PROTOCOL_ERROR},
    ),
    "6_3_priority_of_another_size": (OPEN + frame(PRIORITY, 0, 1, bytes(4)), {FRAME_SIZE_ERROR}),
    "6_4_a_reset_of_no_stream": (frame(RST_STREAM, 0, 0, bytes(4)), {PROTOCOL_ERROR}),
    "6_4_a_reset_of_another_size": (OPEN + frame(RST_STREAM, 0, 1, bytes(3)), {FRAME_SIZE_ERROR}),
    "6_5_settings_of_a_stream": (frame(SETTINGS, 0, 1), {PROTOCOL_ERROR}),
    "6_5_settings_of_another_size": (frame(SETTINGS, payload=bytes(5)), {FRAME_SIZE_ERROR}),
    "6_5_an_answer_to_settings_that_says_more": (frame(SETTINGS, ACK, payload=bytes(6)), {FRAME_SIZE_ERROR}),
    "6_5_2_push_neither_on_nor_off": (setting(2, 2), {PROTOCOL_ERROR}),
    "6_5_2_a_window_that_is_too_large": (setting(4, MOST + 1), {FLOW_CONTROL_ERROR}),
    "6_5_2_frames_that_are_too_small": (setting(5, (1 << 14) - 1), {PROTOCOL_ERROR}),
    "6_5_2_frames_that_are_too_large": (setting(5, 1 << 24), {PROTOCOL_ERROR}),
    "6_6_a_promise_to_the_server": (
        frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + literal(HEAD)),
        {PROTOCOL_ERROR},
    ),
    "6_7_a_ping_of_a_stream": (frame(PING, 0, 1, bytes(8)), {PROTOCOL_ERROR}),
    "6_7_a_ping_of_another_size": (frame(PING, 0, 0, bytes(7)), {FRAME_SIZE_ERROR}),
    "6_8_a_farewell_of_a_stream": (frame(GOAWAY, 0, 1, bytes(8)), {PROTOCOL_ERROR}),
    "6_9_no_window_for_a_stream": (OPEN + window(1, 0), {PROTOCOL_ERROR}),
    "6_9_no_window_for_all": (window(0, 0), {PROTOCOL_ERROR}),
    "6_9_a_window_of_another_size": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), {FRAME_SIZE_ERROR}),
    "6_9_1_a_window_for_all_that_overflows": (window(0, MOST) + window(0, MOST), {FLOW_CONTROL_ERROR}),
    "6_9_1_a_window_that_overflows": (OPEN + window(1, MOST) + window(1, MOST), {FLOW_CONTROL_ERROR}),
    "6_10_more_headers_after_the_last": (OPEN + frame(CONTINUATION, END_HEADERS, 1), {PROTOCOL_ERROR}),
    "6_10_more_headers_of_no_stream": (
        frame(HEADERS, 0, 1, literal(HEAD)) + frame(CONTINUATION, END_HEADERS, 0),
        {PROTOCOL_ERROR},
    ),
    "6_10_another_frame_among_headers": (
        frame(HEADERS, 0, 1, literal(HEAD)) + frame(DATA, 0, 1),
        {PROTOCOL_ERROR},
    ),
    "8_1_headers_after_data_that_do_not_end": (
        OPEN + frame(DATA, 0, 1, b"x") + frame(HEADERS, END_HEADERS, 1, literal([(b"a", b"b")])),
        {PROTOCOL_ERROR},
    ),
    "8_1_1_less_than_the_length_that_was_said": (head(*HEAD, (b"content-length", b"9")), {PROTOCOL_ERROR}),
    "8_1_trailers_with_a_path": (
        OPEN + frame(HEADERS, END_HEADERS | END_STREAM, 1, literal([(b":path", b"/")])),
        {PROTOCOL_ERROR},
    ),
    "8_2_1_upper_case": (head(*HEAD, (b"Upper", b"x")), {PROTOCOL_ERROR}),
    "8_2_1_a_line_break_in_a_value": (head(*HEAD, (b"a", b"x\r\ny")), {PROTOCOL_ERROR}),
    "8_2_2_connection": (head(*HEAD, (b"connection", b"keep-alive")), {PROTOCOL_ERROR}),
    "8_2_2_te_other_than_trailers": (
        head(*(one for one in HEAD if one[0] != b"te"), (b"te", b"gzip")),
        {PROTOCOL_ERROR},
    ),
    "8_3_an_unknown_pseudo_header": (head((b":unknown", b"x"), *HEAD), {PROTOCOL_ERROR}),
    "8_3_a_pseudo_header_of_answers": (head((b":status", b"200"), *HEAD), {PROTOCOL_ERROR}),
    "8_3_a_pseudo_header_among_others": (head(*HEAD[1:], HEAD[0]), {PROTOCOL_ERROR}),
    "8_3_1_a_pseudo_header_twice": (head(HEAD[0], *HEAD), {PROTOCOL_ERROR}),
    "8_3_1_no_method": (without(b":method"), {PROTOCOL_ERROR}),
    "8_3_1_no_scheme": (without(b":scheme"), {PROTOCOL_ERROR}),
    "8_3_1_no_path": (without(b":path"), {PROTOCOL_ERROR}),
    "8_3_1_an_empty_path": (
        head(*((name, b"" if name == b":path" else value) for name, value in HEAD)),
        {PROTOCOL_ERROR},
    ),
    "hpack_2_3_3_an_index_that_is_not_there": (packed(b"\xfe"), {COMPRESSION_ERROR}),
    "hpack_5_1_a_number_without_end": (packed(b"\x7f" + b"\xff" * 20), {COMPRESSION_ERROR}),
    "hpack_5_2_padding_that_is_a_letter": (
        packed(b"\x00\x85\xf2\xb2\x4a\x84\xff\x85\xf2\xb2\x4a\x84\xff\xff"),
        {COMPRESSION_ERROR, PROTOCOL_ERROR},
    ),
    "hpack_6_1_index_zero": (packed(b"\x80"), {COMPRESSION_ERROR}),
    "hpack_6_3_a_table_larger_than_was_said": (packed(b"\x3f\xff\xff\x0f"), {COMPRESSION_ERROR}),
}


@pytest.fixture(scope="module")
def channel() -> Iterator[ServedChannel]:
    with serve(
        handler(METHOD, lambda request, _: models_pb2.Model(name=request.name)), turbo=True
    ) as channel:
        yield channel


@pytest.fixture
def caller(channel: ServedChannel) -> Iterator[Wire]:
    with wire(channel.address) as caller:
        yield caller
    assert models_pb2_grpc.ModelsStub(channel).GetModel(REQUEST, timeout=20).name == REQUEST.name


@pytest.mark.parametrize("name", WRONG)
def test_it_is_an_error(caller: Wire, name: str) -> None:
    sent, codes = WRONG[name]
    caller.send(sent)
    assert caller.next(RST_STREAM, GOAWAY).code in codes


def test_3_4_another_preface_is_no_http2(channel: ServedChannel) -> None:
    stranger = Wire(channel.address).send(PREFACE.replace(b"SM", b"XX") + frame(SETTINGS))
    assert stranger.is_closed()
    stranger.close()


def test_3_4_the_server_begins_with_settings(channel: ServedChannel) -> None:
    silent = Wire(channel.address)
    assert next(silent.frames()).kind == SETTINGS
    silent.close()


def answered(caller: Wire) -> bool:
    return caller.next(DATA).payload == BODY


def test_4_1_and_5_5_frames_of_unknown_kinds_are_passed_over(caller: Wire) -> None:
    assert answered(
        caller.send(frame(0x16, 0xFF, 0, b"?") + OPEN + frame(0x17, 0, 1) + frame(DATA, END_STREAM, 1, BODY))
    )


def test_5_3_priorities_change_nothing(caller: Wire) -> None:
    assert answered(caller.send(frame(PRIORITY, 0, 1, b"\0\0\0\3\0") + WHOLE))


def test_5_1_1_a_call_whose_number_is_lower_than_the_last_is_passed_over(caller: Wire) -> None:
    """The library takes it for one that has ended; RFC 9113 asks for the end of the connection, to the same effect: nobody answers."""
    caller.send(frame(HEADERS, END_HEADERS, 5, literal(HEAD)) + WHOLE + frame(DATA, END_STREAM, 5, BODY))
    assert caller.next(HEADERS, RST_STREAM).stream == 5


def test_6_3_a_priority_of_no_stream_is_passed_over(caller: Wire) -> None:
    """The library reads no priorities of this kind, which RFC 9113 has done away with."""
    assert answered(caller.send(frame(PRIORITY, 0, 0, bytes(5)) + WHOLE))


def test_6_1_padding_is_left_out(caller: Wire) -> None:
    assert answered(caller.send(OPEN + frame(DATA, END_STREAM | PADDED, 1, b"\x05" + BODY + bytes(5))))


def test_6_5_unknown_settings_are_passed_over_and_settings_are_answered(caller: Wire) -> None:
    caller.send(setting(0xFFFF, 1))
    assert next(one for one in caller.frames() if one.kind == SETTINGS and one.flags == ACK)
    assert answered(caller.send(WHOLE))


def test_6_7_a_ping_is_answered_with_what_it_said(caller: Wire) -> None:
    answer = caller.send(frame(PING, 0, 0, b"12345678")).next(PING)
    assert (answer.flags, answer.payload) == (ACK, b"12345678")


def test_6_9_no_more_is_sent_than_the_window_takes(caller: Wire) -> None:
    """Each byte when there is room for it, also where the window was made smaller meanwhile (6.9.2)."""
    caller.send(setting(4, 3) + WHOLE)
    assert caller.next(DATA).payload == BODY[:3]
    caller.send(window(1, 1))
    assert caller.next(DATA).payload == BODY[3:4]
    caller.send(setting(4, 1) + window(1, 3))
    assert caller.next(DATA).payload == BODY[4:5]
    caller.send(window(1, 1 << 16))
    assert caller.next(DATA).payload == BODY[5:]


def test_6_10_headers_may_come_in_pieces(caller: Wire) -> None:
    block = literal(HEAD)
    caller.send(frame(HEADERS, 0, 1, block[:9]) + frame(CONTINUATION, 0, 1, block[9:30]))
    assert answered(
        caller.send(frame(CONTINUATION, END_HEADERS, 1, block[30:]) + frame(DATA, END_STREAM, 1, BODY))
    )


def test_8_1_trailers_end_a_request(caller: Wire) -> None:
    trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, literal([(b"a", b"b")]))
    assert answered(caller.send(OPEN + frame(DATA, 0, 1, BODY) + trailers))


@pytest.mark.parametrize(
    ("header", "status"),
    [((b":method", b"GET"), b"405"), ((b"content-type", b"text/html"), b"415")],
    ids=["grpc_another_method_than_post", "grpc_another_content_type"],
)
def test_what_is_not_grpc_gets_a_status_of_http(caller: Wire, header: Header, status: bytes) -> None:
    caller.send(head(*(header if one[0] == header[0] else one for one in HEAD)))
    answer = caller.next(HEADERS)
    assert answer.flags & END_STREAM
    assert status in answer.payload or answer.payload[:1] in {b"\x8d", b"\x48", b"\x08"}
