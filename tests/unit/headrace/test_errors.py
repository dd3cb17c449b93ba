import subprocess
import sys

import pytest
from google.rpc import error_details_pb2, status_pb2

from headrace import errors
from headrace.errors import BY_REASON, HeadraceError
from headrace.rpc.status import from_status, to_status


def test_every_error_has_a_reason_of_its_own() -> None:
    classes = [
        error
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, HeadraceError)
    ]
    assert {error.reason for error in classes} == set(BY_REASON)
    assert len(BY_REASON) == len(classes) - 1  # HeadraceError itself shares UNKNOWN with its heir


@pytest.mark.parametrize("reason", sorted(BY_REASON))
def test_an_error_comes_back_from_the_wire_as_it_was(reason: str) -> None:
    sent = BY_REASON[reason]("what is wrong", metadata={"offset": 3}, field="page_size", retry_after_s=1.25)
    received = from_status(to_status(sent))
    assert type(received) is type(sent)
    assert (received.code, received.reason, str(received)) == (sent.code, reason, "what is wrong")
    assert (received.metadata, received.field, received.retry_after_s) == ({"offset": "3"}, "page_size", 1.25)


def test_what_an_error_does_not_say_is_not_sent() -> None:
    status = to_status(errors.NotFound("no such model"))
    assert [detail.type_url.rpartition(".")[2] for detail in status.details] == ["ErrorInfo"]
    received = from_status(status)
    assert (received.metadata, received.field, received.retry_after_s) == ({}, None, None)


def test_a_reason_of_a_newer_server_becomes_the_class_of_its_code() -> None:
    assert errors.error_class("MOON_IN_THE_WAY", errors.Code.ABORTED) is errors.Aborted
    assert errors.error_class("", 99) is errors.Unknown


def test_a_reason_of_another_domain_is_not_ours() -> None:
    status = status_pb2.Status(code=errors.Code.NOT_FOUND, message="x")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="STALE_EPOCH", domain="elsewhere"))
    assert type(from_status(status)) is errors.NotFound


def test_the_error_tree_needs_no_grpc() -> None:
    code = "import sys, headrace.errors, headrace.names, headrace.paging; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
