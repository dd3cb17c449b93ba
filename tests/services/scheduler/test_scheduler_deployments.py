"""Deployments through a real scheduler, with inference nodes that load what they are told."""

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from headrace.errors import (
    AlreadyExists,
    EtagMismatch,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    RequestIdReused,
    Unavailable,
)
from headrace.scheduler.v1 import deployments_pb2 as pb
from tests.services.scheduler.fake_nodes import Nodes
from tests.services.scheduler.scheduler_server import PROJECT, Scheduler

NAME = f"{PROJECT}/deployments/digits"
READY = pb.DEPLOYMENT_STATE_READY


def create(
    scheduler: Scheduler, *, request_id: str = "", name: str = "digits", **wished: object
) -> pb.Deployment:
    request = pb.CreateDeploymentRequest(parent=PROJECT, deployment_id=name, request_id=request_id)
    values = {"version": f"{PROJECT}/models/digits@latest", **wished}
    request.deployment.MergeFrom(pb.Deployment(**values))  # type: ignore[arg-type]  # fields by name
    return scheduler.deployments.CreateDeployment(request)


def update(scheduler: Scheduler, *paths: str, **wished: object) -> pb.Deployment:
    deployment = pb.Deployment(**wished)  # type: ignore[arg-type]  # fields by name
    request = pb.UpdateDeploymentRequest(name=NAME, deployment=deployment, update_mask=FieldMask(paths=paths))
    return scheduler.deployments.UpdateDeployment(request)


def test_a_deployment_is_served_by_the_version_its_alias_means(scheduler: Scheduler, nodes: Nodes) -> None:
    node = nodes.inference()
    created = create(scheduler)
    assert created.resolved_version == f"{PROJECT}/models/digits/versions/3"
    ready = scheduler.wait_for_deployment("digits", lambda seen: seen.state == READY)
    assert [(replica.node, replica.address, replica.ready) for replica in ready.serving] == [
        ("nodes/inference-0", node.address, True)
    ]
    assert (node.models["digits"].version, node.models["digits"].file) == (
        ready.resolved_version,
        "int8.onnx",
    )


def test_a_change_of_version_and_replicas_is_carried_out(scheduler: Scheduler, nodes: Nodes) -> None:
    first, second = nodes.inference("inference-0"), nodes.inference("inference-1")
    create(scheduler)
    scheduler.wait_for_deployment("digits", lambda seen: seen.state == READY)
    update(scheduler, "version", "replicas", version=f"{PROJECT}/models/digits/versions/2", replicas=2)
    ready = scheduler.wait_for_deployment("digits", lambda seen: seen.state == READY)
    assert ready.resolved_version.endswith("/2")
    assert {first.models["digits"].version, second.models["digits"].version} == {ready.resolved_version}
    update(scheduler, "file", file="fp32.onnx")
    scheduler.wait_for_deployment("digits", lambda seen: seen.state == READY)
    assert first.models["digits"].file == "fp32.onnx"
    update(scheduler, "replicas", replicas=1)
    second.wait_for(lambda node: not node.models)


def test_a_restarted_inference_node_serves_again(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.inference()
    create(scheduler)
    scheduler.wait_for_deployment("digits", lambda seen: seen.state == READY)
    nodes.kill("inference-0")
    again = nodes.inference()
    again.wait_for(lambda node: "digits" in node.models)
    scheduler.wait_for_deployment("digits", lambda seen: seen.state == READY)


def test_a_lost_replica_is_made_up_for_elsewhere(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.inference("inference-0")
    other = nodes.inference("inference-1")
    create(scheduler)
    scheduler.wait_for_deployment("digits", lambda seen: seen.state == READY)
    nodes.kill("inference-0")
    other.wait_for(lambda node: "digits" in node.models)


def test_a_file_that_cannot_be_served_fails_the_deployment_with_the_reason(
    scheduler: Scheduler, nodes: Nodes
) -> None:
    nodes.inference()
    create(scheduler, file="broken.onnx")
    failed = scheduler.wait_for_deployment("digits", lambda seen: seen.state == pb.DEPLOYMENT_STATE_FAILED)
    assert failed.failure.reason == "INVALID_ARGUMENT"
    assert "broken.onnx is not an ONNX model" in failed.failure.message
    update(scheduler, "file", file="")
    scheduler.wait_for_deployment("digits", lambda seen: seen.state == READY)


def test_a_node_that_fails_for_now_is_asked_again(scheduler: Scheduler, nodes: Nodes) -> None:
    node = nodes.inference()
    node.refuse_with = Unavailable("the registry is away")
    create(scheduler)
    node.wait_for(lambda node: "load digits" in node.calls)
    node.refuse_with = None
    scheduler.wait_for_deployment("digits", lambda seen: seen.state == READY)


def test_deleting_unloads_and_ends_the_watches(scheduler: Scheduler, nodes: Nodes) -> None:
    node = nodes.inference()
    create(scheduler)
    scheduler.wait_for_deployment("digits", lambda seen: seen.state == READY)
    watch = scheduler.deployments.WatchDeployment(pb.WatchDeploymentRequest(name=NAME), timeout=10)
    next(watch)
    scheduler.deployments.DeleteDeployment(pb.DeleteDeploymentRequest(name=NAME))
    with pytest.raises(NotFound):
        list(watch)
    node.wait_for(lambda node: not node.models)
    with pytest.raises(NotFound):
        scheduler.deployments.GetDeployment(pb.GetDeploymentRequest(name=NAME))


def test_an_etag_that_is_not_the_newest_is_refused(scheduler: Scheduler) -> None:
    etag = create(scheduler).etag
    update(scheduler, "replicas", replicas=2, etag=etag)
    with pytest.raises(EtagMismatch):
        update(scheduler, "replicas", replicas=3, etag=etag)
    with pytest.raises(EtagMismatch):
        scheduler.deployments.DeleteDeployment(pb.DeleteDeploymentRequest(name=NAME, etag=etag))
    assert update(scheduler, version=f"{PROJECT}/models/digits/versions/1").replicas == 1, (
        "no mask: all three"
    )


def test_a_request_that_comes_twice_makes_one_deployment(scheduler: Scheduler) -> None:
    assert create(scheduler, request_id="r") == create(scheduler, request_id="r")
    with pytest.raises(RequestIdReused):
        create(scheduler, request_id="r", replicas=2)
    with pytest.raises(AlreadyExists):
        create(scheduler)
    delete = pb.DeleteDeploymentRequest(name=NAME, request_id="d")
    scheduler.deployments.DeleteDeployment(delete)
    scheduler.deployments.DeleteDeployment(delete)


def test_a_model_is_served_to_the_callers_of_its_project(scheduler: Scheduler, nodes: Nodes) -> None:
    node = nodes.inference()
    request = pb.CreateDeploymentRequest(parent="projects/other", deployment_id="digits")
    request.deployment.version = "projects/other/models/digits@latest"
    scheduler.deployments.CreateDeployment(request)
    node.wait_for(lambda node: "digits" in node.models)
    assert node.models["digits"].project == "other"


def test_deployments_are_listed_by_name_in_pages(scheduler: Scheduler) -> None:
    for name in ("b", "a", "c"):
        create(scheduler, name=name)
    first = scheduler.deployments.ListDeployments(pb.ListDeploymentsRequest(parent=PROJECT, page_size=2))
    rest = scheduler.deployments.ListDeployments(
        pb.ListDeploymentsRequest(parent=PROJECT, page_size=2, page_token=first.next_page_token)
    )
    names = [deployment.name.rsplit("/", 1)[1] for deployment in (*first.deployments, *rest.deployments)]
    assert (names, rest.next_page_token) == (["a", "b", "c"], "")


def test_what_could_never_be_served_is_refused(scheduler: Scheduler) -> None:
    with pytest.raises(NotFound, match="versions/9"):
        create(scheduler, version=f"{PROJECT}/models/digits/versions/9")
    with pytest.raises(FailedPrecondition, match=r"no file 'int4\.onnx' that can be served; name one of "):
        create(scheduler, file="int4.onnx")
    with pytest.raises(
        FailedPrecondition, match=r"no file 'report\.png' that can be served; name one of [a-z0-9.,\x20]+$"
    ) as refused:
        create(scheduler, file="report.png")
    assert refused.value.message.count("report.png") == 1
    with pytest.raises(InvalidArgument, match="name a version"):
        create(scheduler, version=f"{PROJECT}/models/digits")
    with pytest.raises(InvalidArgument, match="own project"):
        create(scheduler, version="projects/other/models/digits/versions/1")
    with pytest.raises(InvalidArgument, match="1 to 1024"):
        create(scheduler, replicas=2000)
    with pytest.raises(NotFound, match="pools/gpu"):
        create(scheduler, pool="pools/gpu")
    create(scheduler)
    with pytest.raises(InvalidArgument, match="only version, file, replicas"):
        update(scheduler, "pool", pool="pools/x")
