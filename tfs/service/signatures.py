"""Rules of Classify and Regress: what a signature must look like, and how output tensors become results.

Owns: the checks before and after the run, in the reference's order and wording, and the post-processing with numpy.
Must not know: engines, event loops, request bytes.  Pure functions; any thread.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from tfs import messages
from tfs.errors import InvalidArgument

CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
DEFAULT_SIGNATURE = "serving_default"
INPUTS = "inputs"

_DT_FLOAT, _DT_STRING = 1, 7


class Tensors(Protocol):
    """The part of `_fastpath.Outputs` that results are made from."""

    def dtype(self, alias: str) -> int: ...
    def shape(self, alias: str) -> tuple[int, ...]: ...
    def strings(self, alias: str) -> list[bytes]: ...
    def numbers(self, alias: str) -> memoryview: ...


class Renamed:
    """`Tensors` under other names: alias -> the name that `tensors` knows."""

    def __init__(self, tensors: Tensors, names: dict[str, str]) -> None:
        self._tensors, self._names = tensors, names

    def dtype(self, alias: str) -> int:
        return self._tensors.dtype(self._names[alias])

    def shape(self, alias: str) -> tuple[int, ...]:
        return self._tensors.shape(self._names[alias])

    def strings(self, alias: str) -> list[bytes]:
        return self._tensors.strings(self._names[alias])

    def numbers(self, alias: str) -> memoryview:
        return self._tensors.numbers(self._names[alias])


def check_classify(signature: Any, check_method: bool) -> list[str]:
    """The output aliases to fetch for a Classify on `signature` (a SignatureDef); raises InvalidArgument."""
    if check_method and signature.method_name != CLASSIFY_METHOD:
        raise InvalidArgument(
            f"Expected classification signature method_name to be {CLASSIFY_METHOD}. Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise InvalidArgument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise InvalidArgument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if INPUTS not in signature.inputs:
        raise InvalidArgument(f"No classification inputs found in SignatureDef: {signature}")
    wanted = [alias for alias in ("classes", "scores") if alias in signature.outputs]
    if not wanted:
        raise InvalidArgument(
            "Expected classification signature outputs to contain at least one of "
            f'"classes" or "scores". Signature was: {signature}'
        )
    return wanted


def check_regress(signature: Any, check_method: bool) -> list[str]:
    """The output aliases to fetch for a Regress on `signature` (a SignatureDef); raises InvalidArgument."""
    if check_method and signature.method_name != REGRESS_METHOD:
        raise InvalidArgument(
            f"Expected regression signature method_name to be {REGRESS_METHOD}. Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise InvalidArgument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise InvalidArgument("Expected one output Tensor.")
    if INPUTS not in signature.inputs:
        raise InvalidArgument(f"No regression inputs found in SignatureDef: {signature}")
    if "outputs" not in signature.outputs:
        raise InvalidArgument(f"No regression outputs found in SignatureDef: {signature}")
    return ["outputs"]


def classifications(result: Any, tensors: Tensors, wanted: list[str], examples: int) -> None:
    """Fills a ClassificationResult with `examples` rows from the tensors in `wanted`; raises InvalidArgument."""
    labels: list[list[str]] | None = None
    scores: list[list[float]] | None = None
    columns: dict[str, int] = {}
    for alias, dtype in (("classes", _DT_STRING), ("scores", _DT_FLOAT)):
        if alias not in wanted:
            continue
        shape = tensors.shape(alias)
        if len(shape) != 2:
            raise InvalidArgument(f"Expected Tensor shape: [batch_size num_classes] but got {_text(shape)}")
        if tensors.dtype(alias) != dtype:
            raise InvalidArgument(
                f"Expected {alias} Tensor of {_name(dtype)}. Got: {_name(tensors.dtype(alias))}"
            )
        if shape[0] != examples:
            raise InvalidArgument(f"Expected {alias} output batch size of {examples}. Got: {shape[0]}")
        columns[alias] = shape[1]
        if alias == "classes":
            texts = [text.decode("utf-8", "replace") for text in tensors.strings(alias)]
            labels = [texts[row * shape[1] : (row + 1) * shape[1]] for row in range(examples)]
        else:
            scores = np.frombuffer(tensors.numbers(alias), "<f4").reshape(shape).tolist()
    if len(set(columns.values())) == 2:
        raise InvalidArgument(
            "Tensors class and score should match in dim_size(1). "
            f"Got {columns['classes']} vs. {columns['scores']}"
        )
    result.SetInParent()
    for row in range(examples):
        classes = result.classifications.add().classes
        for column in range(next(iter(columns.values()))):
            one = classes.add()
            if labels is not None:
                one.label = labels[row][column]
            if scores is not None:
                one.score = scores[row][column]


def regressions(result: Any, tensors: Tensors, examples: int) -> None:
    """Fills a RegressionResult with `examples` rows from the tensor `outputs`; raises InvalidArgument."""
    shape = tensors.shape("outputs")
    if len(shape) != 1 and not (len(shape) == 2 and shape[1] == 1):
        raise InvalidArgument(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_text(shape)}"
        )
    if shape[0] != examples:
        raise InvalidArgument(f"Input batch size did not match output batch size: {examples} vs. {shape[0]}")
    if tensors.dtype("outputs") != _DT_FLOAT:
        raise InvalidArgument(f"Expected output Tensor of DT_FLOAT.  Got: {_name(tensors.dtype('outputs'))}")
    result.SetInParent()
    for value in np.frombuffer(tensors.numbers("outputs"), "<f4").tolist():
        result.regressions.add().value = value


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _name(dtype: int) -> str:
    try:
        return str(messages.DataType.Name(dtype))
    except ValueError:
        return f"DataType({dtype})"
