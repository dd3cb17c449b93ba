"""The gradients of a step, as they are added up."""

from collections.abc import Mapping

import torch

from headrace_parameters.core.exchange import Push


def weighted(pushes: Mapping[int, Push]) -> list[tuple[torch.Tensor, float]]:
    """Return each gradient with its share of all samples; none if there are no samples.

    Args:
        pushes: By worker.
    """
    total = sum(push.samples for push in pushes.values())
    if total <= 0:
        return []
    # In the order of the workers, not of arrival: sums of floats depend on it, and a run must be repeatable.
    ordered = (pushes[worker] for worker in sorted(pushes))
    return [(torch.from_numpy(push.gradient), push.samples / total) for push in ordered]
