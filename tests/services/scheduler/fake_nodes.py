"""Nodes that do what they are told and nothing else, behind real gRPC and a real agent; the test plays their work."""

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import grpc
from google.protobuf.empty_pb2 import Empty

from headrace.errors import HeadraceError, InvalidArgument, NotFound
from headrace.inference.oip.descriptor_pool import POOL
from headrace.inference.oip.v2 import inference_pb2_grpc, repository_pb2
from headrace.node import Agent
from headrace.optimization.v1 import optimizer_pb2, optimizer_pb2_grpc
from headrace.parameters.v1 import stores_pb2, stores_pb2_grpc
from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace.rpc.authorization import Role, Rule, current_principal
from headrace.rpc.server import Server
from headrace.scheduler.v1 import nodes_pb2
from headrace.tasks.v1 import inspection_pb2_grpc
from headrace.testing import serve
from headrace.training.v1 import workers_pb2, workers_pb2_grpc
from headrace.types.v1 import task_pb2
from tests.services.scheduler.fake_inspection import FakeInspection

FINAL = (task_pb2.TASK_STATE_SUCCEEDED, task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_STOPPED)
OIP_RULES = {
    f"/inference.GRPCInferenceService/{rpc}": Rule(Role.EDITOR)
    for rpc in ("RepositoryModelLoad", "RepositoryModelUnload")
}
WAIT_S = 60.0  # bounds a hang; a busy machine may take its time

Start = workers_pb2.StartTaskRequest | optimizer_pb2.StartTaskRequest


class FakeNode:
    """One process: its tasks, stores and models, and who is told when they change."""

    def __init__(
        self, name: str, kind: nodes_pb2.NodeKind.ValueType, *, slots: int, incarnation: str
    ) -> None:
        self.name = name
        self.kind = kind
        self.slots = slots
        self.incarnation = incarnation
        self.address = ""
        self.tasks: dict[str, task_pb2.Task] = {}
        self.starts: dict[str, Start] = {}
        self.stores: dict[str, stores_pb2.CreateStoreRequest] = {}
        self.models: dict[str, nodes_pb2.ServedModel] = {}
        self.logs: dict[str, list[bytes]] = {}
        self.refuse_with: HeadraceError | None = None
        self.hang = threading.Event()  # cleared: every call waits
        self.hang.set()
        self.calls: list[str] = []
        self.changed = threading.Condition()
        self.agent: Agent | None = None

    def hello(self) -> nodes_pb2.Hello:
        return nodes_pb2.Hello(
            node=f"nodes/{self.name}",
            incarnation=self.incarnation,
            kind=self.kind,
            address=self.address,
            slots=self.slots,
        )

    def report(self) -> nodes_pb2.Report:
        with self.changed:
            return nodes_pb2.Report(tasks=self.tasks.values(), models=self.models.values())

    def forget(self, names: Sequence[str]) -> None:
        with self.changed:
            for name in names:
                self.tasks.pop(name, None)
            self.changed.notify_all()

    def called(self, what: str) -> None:
        """Take part in every call: write it down, hang, refuse to begin anything."""
        with self.changed:
            self.calls.append(what)
            self.changed.notify_all()
        self.hang.wait(WAIT_S)
        if self.refuse_with and not what.startswith(("stop", "delete", "unload")):
            raise self.refuse_with

    def wait_for(self, condition: Callable[["FakeNode"], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self), WAIT_S), (
                f"{self.name}: {self.calls} {self.tasks}"
            )

    def set_task(self, name: str, state: task_pb2.TaskState.ValueType, **values: object) -> None:
        """Let a task change, and report it."""
        with self.changed:
            task = self.tasks[name]
            task.MergeFrom(task_pb2.Task(state=state, **values))  # type: ignore[arg-type]  # fields by name
            task.revision += 1
            self.changed.notify_all()
        if self.agent:
            self.agent.changed()


class FakeTasks:
    """StartTask and StopTask, which training and optimization nodes share."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node

    def StartTask(self, request: Start, context: grpc.ServicerContext) -> task_pb2.Task:
        node = self._node
        node.called(f"start {request.name}")
        with node.changed:
            if request.name not in node.tasks:
                node.starts[request.name] = request
                state = task_pb2.TASK_STATE_STARTING
                node.tasks[request.name] = task_pb2.Task(name=request.name, state=state, epoch=request.epoch)
            node.changed.notify_all()
            return node.tasks[request.name]

    def StopTask(self, request: task_pb2.StopTaskRequest, context: grpc.ServicerContext) -> task_pb2.Task:
        self._node.called(f"stop {request.name}")
        task = self._node.tasks.get(request.name)
        if task is None:
            raise NotFound(f"there is no {request.name}")
        if task.state not in FINAL:
            self._node.set_task(request.name, task_pb2.TASK_STATE_STOPPED)
        return task


class FakeWorkers(FakeTasks, workers_pb2_grpc.WorkersServicer):
    """A training node."""


class FakeOptimizer(FakeTasks, optimizer_pb2_grpc.OptimizerServicer):
    """An optimization node."""


class FakeStores(stores_pb2_grpc.StoresServicer):
    """CreateStore and DeleteStore."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node

    def CreateStore(
        self, request: stores_pb2.CreateStoreRequest, context: grpc.ServicerContext
    ) -> stores_pb2.Store:
        self._node.called(f"create {request.name}")
        with self._node.changed:
            self._node.stores[request.name] = request
            self._node.changed.notify_all()
        return stores_pb2.Store(name=request.name, epoch=request.epoch)

    def DeleteStore(self, request: stores_pb2.DeleteStoreRequest, context: grpc.ServicerContext) -> Empty:
        self._node.called(f"delete {request.name}")
        with self._node.changed:
            if request.name not in self._node.stores:
                raise NotFound(f"there is no {request.name}")
            del self._node.stores[request.name]
            self._node.changed.notify_all()
        return Empty()


class FakeInference(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """RepositoryModelLoad and RepositoryModelUnload."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node

    def RepositoryModelLoad(
        self, request: repository_pb2.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> repository_pb2.RepositoryModelLoadResponse:
        node = self._node
        project = current_principal().project
        node.called(f"load {request.model_name}")
        version, file = (request.parameters[key].string_param for key in ("version", "file"))
        if file == "broken.onnx":
            raise InvalidArgument("broken.onnx is not an ONNX model")
        with node.changed:
            node.models[request.model_name] = nodes_pb2.ServedModel(
                project=project, model=request.model_name, version=version, file=file, ready=True
            )
            node.changed.notify_all()
        assert node.agent
        node.agent.changed()
        return repository_pb2.RepositoryModelLoadResponse()

    def RepositoryModelUnload(
        self, request: repository_pb2.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> repository_pb2.RepositoryModelUnloadResponse:
        self._node.called(f"unload {request.model_name}")
        with self._node.changed:
            self._node.models.pop(request.model_name, None)
            self._node.changed.notify_all()
        assert self._node.agent
        self._node.agent.changed()
        return repository_pb2.RepositoryModelUnloadResponse()


class FakeRegistry(models_pb2_grpc.ModelsServicer):
    """Versions 1 to 3 of every model; `latest` is 3."""

    def GetVersion(
        self, request: models_pb2.GetVersionRequest, context: grpc.ServicerContext
    ) -> models_pb2.Version:
        name = request.name
        if "@" in name:
            model, alias = name.split("@")
            name = f"{model}/versions/{3 if alias == 'latest' else 2}"
        if int(name.rsplit("/", 1)[1]) > 3:
            raise NotFound(f"{name} does not exist; list the versions to see which there are")
        roles = dict.fromkeys(("fp32.onnx", "int8.onnx", "broken.onnx"), models_pb2.FILE_ROLE_ONNX)
        roles |= {"report.png": models_pb2.FILE_ROLE_PLOT, "model.safetensors": models_pb2.FILE_ROLE_WEIGHTS}
        files = [models_pb2.File(path=path, role=role) for path, role in roles.items()]
        return models_pb2.Version(name=name, files=files, serving_file="int8.onnx")


class Nodes:
    """Starts and ends fake nodes."""

    def __init__(self, scheduler_address: str) -> None:
        self.scheduler_address = scheduler_address
        self.running: dict[str, FakeNode] = {}
        self._stacks: dict[str, ExitStack] = {}

    def start(self, name: str, kind: nodes_pb2.NodeKind.ValueType, *, slots: int = 1) -> FakeNode:
        """Start a process, wait until it is attached."""
        # As in the world: no two processes have the same one. Else the scheduler would wait for what the last test's process held.
        node = FakeNode(name, kind, slots=slots, incarnation=uuid.uuid4().hex)
        stack = ExitStack()
        channel = stack.enter_context(serve(_register(node), rules=OIP_RULES, pools=[POOL]))
        node.address = channel.address
        node.agent = stack.enter_context(
            Agent(self.scheduler_address, node.hello(), report=node.report, forget=node.forget)
        )
        assert node.agent.attached.wait(WAIT_S)
        self._stacks[name] = stack
        self.running[name] = node
        return node

    def training(self, name: str = "training-0", slots: int = 1) -> FakeNode:
        return self.start(name, nodes_pb2.NODE_KIND_TRAINING, slots=slots)

    def parameters(self, name: str = "parameters-0", slots: int = 1) -> FakeNode:
        return self.start(name, nodes_pb2.NODE_KIND_PARAMETERS, slots=slots)

    def optimization(self, name: str = "optimization-0") -> FakeNode:
        return self.start(name, nodes_pb2.NODE_KIND_OPTIMIZATION)

    def inference(self, name: str = "inference-0", slots: int = 4) -> FakeNode:
        return self.start(name, nodes_pb2.NODE_KIND_INFERENCE, slots=slots)

    def kill(self, name: str) -> None:
        """End a process without a word."""
        self._stacks.pop(name).close()

    def close(self) -> None:
        for name in list(self._stacks):
            self.kill(name)


def _register(node: FakeNode) -> Callable[[Server], None]:
    def register(server: Server) -> None:
        if node.kind == nodes_pb2.NODE_KIND_PARAMETERS:
            stores_pb2_grpc.add_StoresServicer_to_server(FakeStores(node), server)  # type: ignore[abstract]  # nobody calls the rest
        elif node.kind == nodes_pb2.NODE_KIND_INFERENCE:
            inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(FakeInference(node), server)  # type: ignore[abstract]  # nobody calls the rest
        elif node.kind == nodes_pb2.NODE_KIND_TRAINING:
            workers_pb2_grpc.add_WorkersServicer_to_server(FakeWorkers(node), server)  # type: ignore[abstract]  # nobody calls the rest
            inspection_pb2_grpc.add_InspectionServicer_to_server(
                FakeInspection(node.logs, node.called), server
            )
        else:
            optimizer_pb2_grpc.add_OptimizerServicer_to_server(FakeOptimizer(node), server)  # type: ignore[abstract]  # nobody calls the rest

    return register


@contextmanager
def fake_registry() -> Iterator[str]:
    """Serve the registry; yield its address."""
    with serve(
        lambda server: models_pb2_grpc.add_ModelsServicer_to_server(FakeRegistry(), server)  # type: ignore[abstract]  # nobody calls the rest
    ) as channel:
        yield channel.address


@contextmanager
def fake_nodes(scheduler_address: str) -> Iterator[Nodes]:
    """Yield what starts nodes of a scheduler; all end with the block."""
    nodes = Nodes(scheduler_address)
    try:
        yield nodes
    finally:
        nodes.close()
