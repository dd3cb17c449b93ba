"""Examples of every command, shown at the end of its `--help`; a test checks that each can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EXAMPLES: Mapping[str, Sequence[str]] = {
    "up": (
        "headrace up",
        "headrace up --workers 4 --shards 2 --data-dir /var/lib/headrace",
        "headrace up --tensorboard ./runs",
    ),
    "train": (
        "headrace train my_model.py digits --steps 400 --batch-size 64",
        "headrace train my_model.py:Digits digits --steps 400 --batch-size 64 --workers 2 --shards 2",
        "headrace train headrace_examples.digits:Digits digits --steps 400 --batch-size 64 --detach",
        "headrace train my_model.py digits --steps 400 --batch-size 64 --config width=128 --json",
    ),
    "optimize": (
        "headrace optimize digits",
        "headrace optimize digits/3 --objective size --max-metric-drop 0.005",
        "headrace optimize digits@stable --batch-size 1 --batch-size 8",
    ),
    "deploy": (
        "headrace deploy digits digits",
        "headrace deploy digits digits@stable --replicas 2",
        "headrace deploy digits-fp32 digits/4 --file fp32.onnx",
    ),
    "undeploy": ("headrace undeploy digits-fp32",),
    "predict": (
        "headrace predict digits --input image=@image.npy",
        "headrace predict tabular --input 'features=[[0.1,0.2],[0.3,0.4]]' --json",
    ),
    "jobs": ("headrace jobs", "headrace jobs --json"),
    "job show": ("headrace job show train-digits-1",),
    "job watch": ("headrace job watch train-digits-1",),
    "job cancel": ("headrace job cancel train-digits-1",),
    "job explain": ("headrace job explain train-digits-1",),
    "job reshard": ("headrace job reshard train-digits-1 --shards 3",),
    "job logs": (
        "headrace job logs train-digits-1 --rank 1",
        "headrace job logs train-digits-1 --follow --tail 20",
    ),
    "job metrics": (
        "headrace job metrics train-digits-1",
        "headrace job metrics train-digits-1 --plot",
        "headrace job metrics train-digits-1 --metric loss --png loss.png",
    ),
    "job stacks": ("headrace job stacks train-digits-1 --rank 1",),
    "job profile": (
        "headrace job profile train-digits-1",
        "headrace job profile train-digits-1 --rank 1 --steps 10 --out trace.json.gz",
    ),
    "models": ("headrace models", "headrace models --json"),
    "model show": ("headrace model show digits", "headrace model show digits/3 --json"),
    "model versions": ("headrace model versions digits",),
    "model alias": ("headrace model alias digits stable 3", "headrace model alias digits stable"),
    "model download": ("headrace model download digits@stable ./digits",),
    "deployments": ("headrace deployments", "headrace deployments --json"),
    "nodes": ("headrace nodes", "headrace nodes --address 10.0.0.5:8470"),
    "node drain": ("headrace node drain training-1",),
    "node resume": ("headrace node resume training-1",),
    "demo": ("headrace demo", "headrace demo --example text --json", "headrace demo --keep"),
    "version": ("headrace version",),
}


def epilog(command: str) -> str:
    """Return the end of a command's help; the backspace keeps the lines as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {example}" for example in EXAMPLES[command])])
