"""The start of the process stays short."""

import subprocess
import sys

STEP = """
import sys, torch
from headrace_parameters.core.config import AdamW
from headrace_parameters.core.optimizer import FusedOptimizer
from headrace_parameters.startup import leave_out_compiler

leave_out_compiler()
optimizer = FusedOptimizer(AdamW(0.1), 10)
optimizer.apply(torch.ones(10), [(torch.ones(10), 1.0)])
sys.exit("torch._dynamo" in sys.modules)
"""


def test_the_first_update_does_not_import_the_compiler_of_torch() -> None:
    assert subprocess.run([sys.executable, "-c", STEP], check=False, timeout=60).returncode == 0
