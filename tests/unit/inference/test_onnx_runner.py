"""onnxruntime behind a seam: bytes in, arrays through, errors of our own out."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import helper

from headrace.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from headrace.inference.tensors import DATATYPES, Array, dtype_of
from headrace_inference.cache import FileCache
from headrace_inference.core.signature import Tensor
from headrace_inference.core.trial import rows_are_independent
from headrace_inference.memory import give_back_memory
from headrace_inference.runners.onnx import OnnxRunner
from headrace_inference.runners.onnx_sessions import Hardware
from tests.unit.inference import onnx_models
from tests.unit.inference.open_models import model_file, open_onnx

Open = Callable[[bytes], OnnxRunner]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Open]:
    """Opens models with every way to run that the processor offers."""
    with ExitStack() as opened:
        yield lambda data: opened.enter_context(closing(open_onnx(data, tmp_path)))


def example(datatype: str) -> Array:
    if datatype == "BYTES":
        return np.array([[b"a", "é".encode()], [b"", b"x\0y"]], np.object_)
    return np.array([[0, 1], [1, 0]]).astype(dtype_of(datatype))


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_passes_through(session: Open, datatype: str) -> None:
    model = session(onnx_models.identity(datatype))
    y = model.run({"x": example(datatype)}, ["y"])["y"]
    assert model.signature.inputs == (Tensor("x", datatype, ("n", "m")),)
    assert [one.encode() if isinstance(one, str) else one for one in y.ravel().tolist()] == example(
        datatype
    ).ravel().tolist()


def test_only_the_wished_outputs_come(session: Open) -> None:
    outputs = session(onnx_models.affine()).run({"x": np.ones((1, 3), np.float32)}, ["shifted"])
    assert {name: array.tolist() for name, array in outputs.items()} == {"shifted": [[2, 2, 2]]}


def test_an_axis_without_a_name_may_have_any_size(session: Open) -> None:
    model = session(onnx_models.identity("FP32", (None, 2)))
    assert model.signature.inputs[0].axes == ("", 2)


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x0a"], ids=repr)
def test_bytes_that_are_no_model_are_refused(session: Open, data: bytes) -> None:
    with pytest.raises(FailedPrecondition, match="onnxruntime cannot load the model"):
        session(data)


@pytest.mark.parametrize("location", ["w.bin", "../w.bin", "/etc/passwd"])
def test_weights_in_other_files_are_never_read(
    session: Open, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left to itself, onnxruntime looks for them in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("w.bin").write_bytes(np.ones((2, 2), np.float32).tobytes())
    with pytest.raises(FailedPrecondition, match="keeps weights in other files"):
        session(onnx_models.external_weights(location))


def test_an_output_that_the_protocol_cannot_carry_is_refused(session: Open) -> None:
    sequence = helper.make_tensor_sequence_value_info("y", onnx_models.ELEMENT_TYPES["FP32"], None)
    data = onnx_models.model(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        [onnx_models.tensor("x", "FP32", ("n",))],
        [sequence],
    )
    with pytest.raises(FailedPrecondition, match=r"output 'y' is seq\(tensor\(float\)\)"):
        session(data)


def test_values_that_the_model_cannot_run_are_the_callers_mistake(session: Open) -> None:
    with pytest.raises(InvalidArgument, match="cannot run these inputs: indices element out of data bounds"):
        session(onnx_models.gather()).run({"x": np.array([5])}, ["y"])


def test_bytes_that_are_no_text_are_refused(session: Open) -> None:
    with pytest.raises(InvalidArgument, match="input 'x' holds bytes that are no UTF-8"):
        session(onnx_models.identity("BYTES", ("n",))).run({"x": np.array([b"\xff"], np.object_)}, ["y"])


def test_a_request_that_needs_more_memory_than_there_is_is_refused(session: Open) -> None:
    data = onnx_models.model(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        [onnx_models.tensor("x", "FP32", (1,)), onnx_models.tensor("shape", "INT64", ("k",))],
        [onnx_models.tensor("y", "FP32", ("a", "b"))],
    )
    with pytest.raises(ResourceExhausted, match="not enough memory"):
        session(data).run({"x": np.ones(1, np.float32), "shape": np.array([1 << 40, 1 << 10])}, ["y"])


def test_a_provider_that_is_not_there_is_named() -> None:
    with pytest.raises(FailedPrecondition, match=r"no provider 'NoSuchProvider' here; it has .*CPUExecution"):
        Hardware(providers=(("NoSuchProvider", {}),))


@pytest.mark.parametrize(
    ("data", "independent"),
    [
        (onnx_models.affine(), True),
        (onnx_models.identity("FP32", (None, 4)), True),
        (onnx_models.identity("BF16"), True),
        (onnx_models.identity("BYTES"), True),
        (onnx_models.gather(), True),
        (onnx_models.affine(first=1), False),
        (onnx_models.mean_of_the_batch(), False),
    ],
    ids=["affine", "unnamed axis", "BF16", "BYTES", "gather", "fixed batch", "mean of the batch"],
)
def test_a_trial_shows_whether_rows_are_independent(session: Open, data: bytes, independent: bool) -> None:
    model = session(data)
    assert rows_are_independent(model, model.signature) == independent


def test_a_model_that_dislikes_every_trial_is_served_without_batches(session: Open) -> None:
    data = onnx_models.model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [onnx_models.tensor("x", "FP32", ("n", "m"))],
        [onnx_models.tensor("y", "FP32", ("n", "k"))],
        shape=np.array([-1, 7]),
    )
    model = session(data)
    assert not rows_are_independent(model, model.signature)
    assert model.run({"x": np.ones((2, 7), np.float32)}, ["y"])["y"].shape == (2, 7)


def test_every_way_to_run_gives_the_same_answer(tmp_path: Path) -> None:
    """Alone or beside others, with one thread or three: the caller sees no difference."""
    with closing(open_onnx(onnx_models.matmul(64), tmp_path, Hardware(threads=3, workers=2))) as model:
        x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
        expected = model.run({"x": x}, ["y"])["y"]
        for way in range(model.ways):
            np.testing.assert_allclose(model.run_way(way, {"x": x}, ["y"])["y"], expected, rtol=1e-5)


def test_weights_are_mapped_once_however_many_sessions_there_are(tmp_path: Path) -> None:
    with closing(open_onnx(onnx_models.matmul(2048), tmp_path, Hardware(threads=2))) as model:
        x = {"x": np.ones((1, 2048), np.float32)}
        model.run_way(0, x, ["y"])
        before = private_bytes()
        for way in range(1, model.ways):
            model.run_way(way, x, ["y"])
        assert private_bytes() - before < 2048 * 2048 * 4 / 2  # half of one more copy of the weights


def private_bytes() -> int:
    """Return what is in use and no file backs: pages of a mapped file come and go as the system likes, a copy of them stays."""
    give_back_memory()
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


def test_a_closed_model_runs_no_more_and_its_files_are_gone(tmp_path: Path) -> None:
    model = open_onnx(onnx_models.affine(), tmp_path)
    assert list(tmp_path.iterdir())
    model.close()
    model.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FailedPrecondition, match="the model is unloaded; load it again"):
        model.run({"x": np.ones((1, 3), np.float32)}, ["scaled"])


def test_a_model_that_is_ready_in_the_cache_is_not_fetched_again(tmp_path: Path) -> None:
    data = onnx_models.affine()
    cache = FileCache(tmp_path, 1 << 30)
    OnnxRunner(model_file(data), Hardware(), cache).close()

    def fetch() -> bytes:
        raise AssertionError("it was fetched again")

    with closing(OnnxRunner(replace(model_file(data), read=fetch), Hardware(), cache)) as again:
        assert again.run({"x": np.ones((1, 3), np.float32)}, ["shifted"])["shifted"].tolist() == [[2, 2, 2]]


def test_loading_and_unloading_again_and_again_keeps_no_memory(tmp_path: Path) -> None:
    data, x = onnx_models.matmul(1024), {"x": np.ones((1, 1024), np.float32)}  # 4 MiB of weights
    cache, used = FileCache(tmp_path, 1 << 30), []
    for _ in range(30):
        with closing(OnnxRunner(model_file(data), Hardware(threads=2), cache)) as model:
            model.run(x, ["y"])
        used.append(private_bytes())
    assert used[-1] - used[9] < 20 * 4 * (1 << 20) / 4  # a quarter of the weights of twenty loads
