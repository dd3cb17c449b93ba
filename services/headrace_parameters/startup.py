"""What keeps the start of the process short: workers wait through a restart, and every second of it is theirs."""

import torch


def leave_out_compiler() -> bool:
    """Keep `torch.optim` from importing torch's compiler, which takes as long again as torch itself; return whether it could be done.

    `Optimizer.add_param_group` is wrapped so that the compiler leaves it alone. The wrapper imports the compiler to find out how, unless
    it is told what to call: the function itself, since nothing is compiled here. A torch without that wrapper needs nothing.
    """
    plain = getattr(torch.optim.Optimizer.add_param_group, "__wrapped__", None)
    if plain is None:
        return False
    plain.__dict__.setdefault("__dynamo_disable", plain)
    return True
