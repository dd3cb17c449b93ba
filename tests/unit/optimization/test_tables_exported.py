"""A model with a table as one ONNX file: known keys have their rows, others their first values, at any batch size."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from headrace.testing.data import examples_of
from headrace_examples.recommender import Recommender
from headrace_optimization.calls import load_model
from headrace_optimization.passes.export import export_model
from headrace_optimization.passes.quantize import quantize_int8
from headrace_optimization.passes.session import open_session, run_model
from tests.unit.optimization.tiny_programs import Bags


def test_rows_are_found_by_key_and_unknown_keys_have_first_values(tmp_path: Path) -> None:
    program, generator = Bags(), torch.Generator().manual_seed(0)
    keys = torch.randint(-(1 << 63), (1 << 63) - 1, (100,), generator=generator)
    trained = program.model()
    state = trained.state_dict() | {"0.keys": keys, "0.rows": torch.randn(100, 5, generator=generator)}
    save_file(state, tmp_path / "weights.safetensors")
    model = load_model(program, tmp_path / "weights.safetensors")
    asked = np.concatenate([keys[:40].reshape(10, 4).numpy(), program.data("test").inputs["input"][:10]])

    export_model(model, {"input": asked}, tmp_path / "fp32.onnx")
    quantize_int8(tmp_path / "fp32.onnx", {"input": asked}, 20, tmp_path / "int8.onnx")

    with torch.no_grad():
        expected = model(torch.from_numpy(asked)).numpy()
    for name, tolerance in (("fp32", 1e-5), ("int8", 0.1)):
        session = open_session((tmp_path / f"{name}.onnx").read_bytes())
        np.testing.assert_allclose(run_model(session, {"input": asked}), expected, atol=tolerance)


def test_a_table_without_rows_can_be_exported(tmp_path: Path) -> None:
    inputs = examples_of(Recommender(), "test").inputs

    export_model(Recommender(dim=2).model().eval(), inputs, tmp_path / "fp32.onnx")
