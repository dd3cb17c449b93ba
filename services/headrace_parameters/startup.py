"""What keeps the start of the process short: workers wait through a restart, and every second of it is theirs."""

import torch


def leave_out_compiler() -> None:
    """Keep `torch.optim` from importing torch's compiler, which takes longer than torch itself and compiles nothing here.

    Two wrappers import it: one around `Optimizer.add_param_group`, unless it is told what to call instead, and one around the `step` of
    every optimizer, which only switches gradients off; our parameters never require any. A torch without these wrappers is left as it is.
    """
    plain = getattr(torch.optim.Optimizer.add_param_group, "__wrapped__", None)
    if plain is not None:
        plain.__dict__.setdefault("__dynamo_disable", plain)
    for kind in vars(torch.optim).values():
        is_optimizer = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
        if is_optimizer and "step" in vars(kind) and hasattr(kind.step, "__wrapped__"):
            kind.step = kind.step.__wrapped__
