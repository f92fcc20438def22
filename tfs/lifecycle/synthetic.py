"""Made-up warm-up: one request of zeros per stateless signature, for versions that bring no warm-up file.

Owns: which signatures can be called without knowing what they mean, and the request for each. A request that fails is logged
and harms nothing: zeros may be no valid input. Signatures with state are left alone: a request could change what they answer.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Final, Generic

from tfs.errors import TfsError
from tfs.lifecycle.loader import S
from tfs.messages import DataType, PredictRequest, SignatureDef, TensorInfo

log = logging.getLogger("tfs.lifecycle.synthetic")

INIT_SIGNATURE: Final = "__saved_model_init_op"
# A generated input beyond this (an unbatched video, an embedding table as an input) would warm up nothing that is ever sent.
MAX_ELEMENTS: Final = 1 << 22


def requests(signatures: Mapping[str, bytes]) -> dict[str, bytes]:
    """Signature name -> a serialized PredictRequest of zeros and empty strings, for every signature whose inputs all have a
    known rank and a plain type. Unknown dimensions are 1. `signatures`: name -> serialized SignatureDef."""
    made = {}
    for name, serialized in sorted(signatures.items()):
        if name == INIT_SIGNATURE:
            continue
        request = _request(name, SignatureDef.FromString(serialized))
        if request is not None:
            made[name] = request.SerializeToString()
    return made


def _request(name: str, signature: SignatureDef) -> PredictRequest | None:
    request = PredictRequest()
    request.model_spec.signature_name = name
    for alias, info in signature.inputs.items():
        dims = _dims(info)
        if dims is None:
            return None
        tensor = request.inputs[alias]
        tensor.dtype = info.dtype
        tensor.tensor_shape.SetInParent()
        for size in dims:
            tensor.tensor_shape.dim.add(size=size)  # no values: missing ones are zeros and empty strings
    return request


def _dims(info: TensorInfo) -> list[int] | None:
    """The shape to send, or None when no value can be made up."""
    if info.WhichOneof("encoding") != "name" or info.tensor_shape.unknown_rank:
        return None
    if info.dtype in (DataType.DT_INVALID, DataType.DT_RESOURCE, DataType.DT_VARIANT):
        return None
    dims = [dim.size if dim.size >= 0 else 1 for dim in info.tensor_shape.dim]
    return dims if math.prod(dims) <= MAX_ELEMENTS else None


class SyntheticWarmUp(Generic[S]):
    """Callable as the `without_file` of tfs.lifecycle.warmup.WarmUp. Blocks; any number of threads. Never raises TfsError."""

    def __init__(
        self,
        signatures: Callable[[S], Mapping[str, bytes]],
        stateless: Callable[[S, str], bool],
        run: Callable[[S, bytes], object],
    ) -> None:
        """`signatures(servable)`: its SignatureDefs; `stateless(servable, name)`: whether calling it twice is calling it once;
        `run(servable, request)`: runs a serialized PredictRequest."""
        self._signatures = signatures
        self._stateless = stateless
        self._run = run

    def __call__(self, servable: S) -> None:
        for name, request in requests(self._signatures(servable)).items():
            if not self._stateless(servable, name):
                continue
            try:
                self._run(servable, request)
            except TfsError as e:
                log.info(
                    "A request of zeros for signature %s warmed up nothing: %s",
                    name,
                    e.status_text.partition("\n")[0],
                )
