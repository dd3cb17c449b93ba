"""All processes that train, with a scheduler that does not take a busy machine for a lost node."""

from dataclasses import replace
from pathlib import Path

from headrace.local.child import ProcessSpec
from headrace.local.plan import Sizes, plan

IDLE = ("optimization-0", "inference-0")
LEASE_S = 60.0  # a busy machine may need longer than the default lease to start a process


def patient_plan(folder: Path, sizes: Sizes, lease_s: float = LEASE_S) -> list[ProcessSpec]:
    """Return what `plan` does, on free ports, without the nodes that only optimize and serve.

    Args:
        lease_s: How long a node may be silent.
    """
    return [_patient(spec, lease_s) for spec in plan(folder, sizes, port=0) if spec.name not in IDLE]


def _patient(spec: ProcessSpec, lease_s: float) -> ProcessSpec:
    if spec.name != "scheduler":
        return spec
    return replace(spec, environment={**spec.environment, "HEADRACE_SCHEDULER_LEASE_S": str(lease_s)})
