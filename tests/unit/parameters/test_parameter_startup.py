"""The start of the process stays short."""

import subprocess
import sys

import pytest

STEP = """
import sys, torch
from headrace_optimizers.config import Adagrad, Adam, AdamW, Sgd
from headrace_optimizers.fused import FusedOptimizer
from headrace_parameters.startup import leave_out_compiler

leave_out_compiler()
optimizer = FusedOptimizer({optimizer}, 10)
optimizer.apply(torch.ones(10), [(torch.ones(10), 1.0)], 0.5)
sys.exit("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize(
    "optimizer", ["Sgd(0.1)", "Sgd(0.1, 0.9, nesterov=True)", "Adam(0.1)", "AdamW(0.1)", "Adagrad(0.1)"]
)
def test_the_first_update_does_not_import_the_compiler_of_torch(optimizer: str) -> None:
    program = STEP.replace("{optimizer}", optimizer)
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
