"""Reads a program that `torch.export.save` wrote (.pt2), as plain data: a graph of named operators, and tensors as bytes.

`torch.export.load` is not used, because it runs what it reads: sizes go through `sympify`, which evaluates Python; guards
are executed as source; a node may name any function below the package torch, `torch.os.system` included; example inputs
and odd tensors are pickles. Here the graph is JSON that `torch_program` interprets, operators are those of aten alone, tensors are raw
bytes, example inputs are passed over, and what would need unpickling is refused.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.errors import FailedPrecondition
from headrace_inference.core.signature import Signature, Tensor

SCHEMA = 8  # the major version of the format that is read
# Numbers of `ScalarType` in that format, to datatypes of the protocol; others cannot be carried.
DATATYPES: Mapping[int, str] = {
    1: "UINT8",
    2: "INT8",
    3: "INT16",
    4: "INT32",
    5: "INT64",
    6: "FP16",
    7: "FP32",
    8: "FP64",
    12: "BOOL",
    13: "BF16",
    28: "UINT16",
    34: "UINT32",
    35: "UINT64",
}
_OPERATOR = re.compile(r"torch\.ops\.aten\.([a-z_][a-z0-9_]*)\.([A-Za-z0-9_]+)")
_ARITHMETIC = re.compile(r"_operator\.(add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge|and_|or_|not_)")
# What no model needs to run: reads a file that the model names; takes places in memory from a tensor, and looks at none of
# them; gives memory as others have left it.
_FORBIDDEN = re.compile(r"from_file|\w*sparse\w*|\w*backward\w*|\w*empty\w*|\w*resize\w*|set_")
_SYMBOL = re.compile(r"Symbol\('(\w+)'|(\w+)$")
ALONE = "output"  # the name of an output that the program does not name, as in models that headrace exports

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Weight:
    """One tensor of the archive: elements of `file` from `offset` on, with sizes and strides in elements."""

    file: str
    datatype: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Node:
    """One call of an operator.

    Args:
        operator: ("aten", name, overload), or ("operator", name) for the arithmetic of sizes.
        args, kwargs: `Argument` messages of the format, as JSON.
        results: Names of what it gives, one for each result; a list where a result is a list; None where it is not used.
    """

    operator: tuple[str, ...]
    args: Sequence[Json]
    kwargs: Mapping[str, Json]
    results: Sequence[str | Sequence[str] | None]


@dataclass(frozen=True)
class Program:
    """A whole program.

    Args:
        weights: By their name in the graph.
        files: Bytes of the files that weights lie in.
        takes, gives: Names in the graph of the signature's inputs and outputs.
    """

    signature: Signature
    nodes: Sequence[Node]
    weights: Mapping[str, Weight]
    files: Mapping[str, bytes]
    takes: Sequence[str]
    gives: Sequence[str]


def read_program(data: bytes) -> Program:
    """Read an archive.

    Raises:
        FailedPrecondition: It is none, or one with more than operators of aten and plain tensors.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _Reader(archive).program()
    except (zipfile.BadZipFile, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise FailedPrecondition(
            f"the file is no program of torch.export.save: {type(error).__name__} {str(error)[:100]}"
        ) from error


class _Reader:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._root = archive.namelist()[0].split("/")[0]
        whole = self._json("models/model.json")
        if whole["schema_version"]["major"] != SCHEMA:
            raise FailedPrecondition(
                f"the program has version {whole['schema_version']['major']} of its format, and {SCHEMA} is read here; "
                "save it with a torch of about the server's version"
            )
        self._module: Json = whole["graph_module"]
        self._graph: Json = self._module["graph"]

    def _json(self, path: str) -> Any:
        return json.loads(self._read(path))

    def _read(self, path: str) -> bytes:
        entry = self._archive.getinfo(f"{self._root}/{path}")
        if entry.compress_type != zipfile.ZIP_STORED:  # a small file could fill the memory
            raise FailedPrecondition(
                f"{path!r} of the program is compressed; torch.export.save stores it plain"
            )
        return self._archive.read(entry)

    def program(self) -> Program:
        weights = dict(self._weights())
        takes = [name for name, spec in self._inputs() if "user_input" in spec]
        gives = [_result(spec) for spec in self._module["signature"]["output_specs"]]
        names = self._output_names(len(gives))
        return Program(
            Signature(
                tuple(self._tensor("input", name, name) for name in takes),
                tuple(self._tensor("output", name, inner) for name, inner in zip(names, gives, strict=True)),
            ),
            [_node(node) for node in self._graph["nodes"]],
            weights,
            {weight.file: self._read(weight.file) for weight in weights.values()},
            takes,
            gives,
        )

    def _inputs(self) -> Iterator[tuple[str, Json]]:
        """Yield the name of each input of the graph and what it is."""
        for spec in self._module["signature"]["input_specs"]:
            ((kind, content),) = spec.items()
            argument = content["arg"]
            if kind == "user_input":
                argument = argument.get("as_tensor")
            if kind not in ("user_input", "parameter", "buffer", "tensor_constant") or argument is None:
                raise FailedPrecondition(
                    f"the program takes {json.dumps(spec)[:100]}, which is no tensor; export it with tensors alone"
                )
            yield argument["name"], spec

    def _weights(self) -> Iterator[tuple[str, Weight]]:
        stored = dict(self._stored("data/weights/", "model_weights_config.json"))
        stored |= self._stored("data/constants/", "model_constants_config.json")
        for name, spec in self._inputs():
            ((kind, content),) = spec.items()
            if kind != "user_input":
                yield name, stored[content.get(f"{kind}_name")]

    def _stored(self, folder: str, config: str) -> Iterator[tuple[str, Weight]]:
        for name, entry in self._json(folder + config)["config"].items():
            meta = entry["tensor_meta"]
            if entry["use_pickle"] or meta is None:
                raise FailedPrecondition(
                    f"tensor {name!r} of the program is a pickle, which could run code; save plain tensors"
                )
            yield (
                name,
                Weight(
                    folder + entry["path_name"],
                    _datatype(name, meta),
                    tuple(size["as_int"] for size in meta["sizes"]),
                    tuple(stride["as_int"] for stride in meta["strides"]),
                    meta["storage_offset"]["as_int"],
                ),
            )

    def _tensor(self, kind: str, name: str, inner: str) -> Tensor:
        meta = self._graph["tensor_values"][inner]
        return Tensor(name, _datatype(f"{kind} {name}", meta), tuple(map(_axis, meta["sizes"])))

    def _output_names(self, count: int) -> list[str]:
        entry = next(one for one in self._module["module_call_graph"] if one["fqn"] == "")
        spec = json.loads(entry["signature"]["out_spec"])[1]
        if spec["type"] == "builtins.dict":
            return [str(key) for key in json.loads(spec["context"])]
        return [ALONE] if count == 1 else [f"{ALONE}_{number}" for number in range(count)]


def _result(spec: Json) -> str:
    ((kind, content),) = spec.items()
    if kind != "user_output" or "as_tensor" not in content["arg"]:
        raise FailedPrecondition(
            f"the program gives {json.dumps(spec)[:100]}; export it in eval mode, with tensors that change nothing"
        )
    name: str = content["arg"]["as_tensor"]["name"]
    return name


def _datatype(name: str, meta: Json) -> str:
    datatype = DATATYPES.get(meta["dtype"])
    if datatype is None:
        raise FailedPrecondition(
            f"tensor {name!r} has element type {meta['dtype']} of torch's, which the Open Inference Protocol cannot carry"
        )
    return datatype


def _axis(size: Json) -> int | str:
    if "as_int" in size:
        return int(size["as_int"])
    symbol = _SYMBOL.match(size["as_expr"]["expr_str"])
    return (symbol[1] or symbol[2]) if symbol else ""


def _node(node: Json) -> Node:
    inputs = node["inputs"]
    return Node(
        _operator(node["target"]),
        [one["arg"] for one in inputs if one["kind"] == 1],
        {one["name"]: one["arg"] for one in inputs if one["kind"] != 1},
        [_named(one) for one in node["outputs"]],
    )


def _operator(target: str) -> tuple[str, ...]:
    aten, arithmetic = _OPERATOR.fullmatch(target), _ARITHMETIC.fullmatch(target)
    if aten and not _FORBIDDEN.fullmatch(aten[1]):
        return "aten", aten[1], aten[2]
    if arithmetic:
        return "operator", arithmetic[1]
    raise FailedPrecondition(
        f"the program calls {target[:100]!r}; only operators of torch.ops.aten are run, export it without others"
    )


def _named(result: Json) -> str | list[str] | None:
    ((kind, content),) = result.items()
    if kind == "as_optional_tensor":
        return _named(content)
    if kind == "as_tensors":
        return [one["name"] for one in content]
    if kind not in ("as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float"):
        return None
    name: str | None = content.get("name", content.get("as_name"))
    return name
