"""What a command sends to a signature: inputs from the command line, or zeros.

Owns: the forms of input: JSON (text, a file, stdin), .npy and .npz, images by Pillow where it is installed, text and bytes of files.
Types come from the signature. Must not know: how they are sent.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tfs.client.dtypes import Array, DataType, Typed, is_bits
from tfs.client.types import ModelMetadata, Signature, TensorInfo
from tfs.errors import InvalidArgument, TfsError, Unimplemented

HELP: Final = (
    'JSON ("[1, 2]", {"x": ...}, {"instances": ...}), @FILE (.json, .npy, .npz, .png, .jpg, anything else as bytes), - for JSON from '
    "stdin; NAME=... for one of several inputs"
)
_IMAGES: Final = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")


def signature_of(metadata: ModelMetadata, name: str) -> Signature:
    """The signature called `name`, or the default one. Raises InvalidArgument naming those there are."""
    found = metadata.signatures.get(name or "serving_default")
    if found is None:
        names = ", ".join(metadata.signatures)
        raise InvalidArgument(
            f"model {metadata.name} has no signature '{name or 'serving_default'}'; it has: {names}"
        )
    return found


def read(texts: Sequence[str], signature: Signature) -> dict[str, object]:
    """Input name -> array, from the arguments of a command line. Raises InvalidArgument, or OSError for files."""
    found: dict[str, object] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if equals and name in signature.inputs:
            found[name] = _one(rest, name, signature.inputs[name])
        else:
            found.update(_whole(text, signature))
    return found


def zeros(signature: Signature, rows: int = 1) -> dict[str, object]:
    """An input of zeros and empty strings; the first free dimension is `rows`, others 1. Raises InvalidArgument."""
    if rows < 1:
        raise InvalidArgument(f"--rows is {rows}: expected 1 or more")
    found: dict[str, object] = {}
    for name, info in signature.inputs.items():
        if info.shape is None:
            raise InvalidArgument(f"input '{name}' has any shape: give it a value")
        shape = [1 if size is None else size for size in info.shape]
        if info.shape and info.shape[0] is None:
            shape[0] = rows
        if info.dtype == DataType.DT_STRING:
            found[name] = np.full(shape, b"", object)
        else:
            found[name] = Typed(np.zeros(shape, info.numpy_type), DataType(info.dtype))
    return found


def check(found: Mapping[str, object], signature: Signature) -> None:
    """Raises InvalidArgument for inputs that are missing or have another shape than the signature wants."""
    missing = signature.inputs.keys() - found.keys() - set(signature.defaults)
    if missing:
        raise InvalidArgument(f"no value for the input(s) {', '.join(sorted(missing))}")
    for name, value in found.items():
        wanted = signature.inputs[name].shape
        shape = np.asarray(value.values if isinstance(value, Typed) else value).shape
        if wanted is not None and not (
            len(shape) == len(wanted) and all(n in (None, m) for n, m in zip(wanted, shape, strict=True))
        ):
            shown = ", ".join("?" if size is None else str(size) for size in wanted)
            raise InvalidArgument(
                f"input '{name}' has the shape {list(shape)}; the signature wants [{shown}]"
            )


def _whole(text: str, signature: Signature) -> dict[str, object]:
    """An argument that may carry several inputs: an object, an .npz, or the value of the only input."""
    if text.startswith("@") and text.endswith(".npz"):
        arrays = _saved(Path(text[1:]))
        return {name: _typed(one, name, _info(name, signature)) for name, one in arrays.items()}
    if text.startswith("@") and not text.endswith(".json"):
        name, info = _only(signature)
        return {name: _from_file(Path(text[1:]), name, info)}
    value = _json(text)
    if isinstance(value, dict) and not _is_b64(value):
        if "instances" in value:
            return _rows(value["instances"], signature)
        value = value.get("inputs", value)
    if isinstance(value, dict) and not _is_b64(value):
        return {name: _array(one, name, _info(name, signature)) for name, one in value.items()}
    name, info = _only(signature)
    return {name: _array(value, name, info)}


def _one(text: str, name: str, info: TensorInfo) -> object:
    if text.startswith("@") and not text.endswith(".json"):
        return _from_file(Path(text[1:]), name, info)
    if info.dtype == DataType.DT_STRING and not text.startswith(("@", "-", "[", "{", '"')):
        return _array(text, name, info)
    return _array(_json(text), name, info)


def _json(text: str) -> Any:
    where = "stdin" if text == "-" else text[1:] if text.startswith("@") else "the argument"
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(where).read_text()
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"{where} is no JSON: {error}") from None


def _rows(instances: Any, signature: Signature) -> dict[str, object]:
    """REST's row format: one value, or one object, per row."""
    if not isinstance(instances, list) or not instances:
        raise InvalidArgument("'instances' must be a list with something in it")
    if isinstance(instances[0], dict) and not _is_b64(instances[0]):
        try:
            columns = {name: [row[name] for row in instances] for name in instances[0]}
        except (KeyError, TypeError):
            raise InvalidArgument("every row of 'instances' must have the names of the first") from None
        return {name: _array(one, name, _info(name, signature)) for name, one in columns.items()}
    name, info = _only(signature)
    return {name: _array(instances, name, info)}


def _info(name: str, signature: Signature) -> TensorInfo:
    if name not in signature.inputs:
        raise InvalidArgument(f"no input '{name}'; the signature has: {', '.join(signature.inputs)}")
    return signature.inputs[name]


def _only(signature: Signature) -> tuple[str, TensorInfo]:
    if len(signature.inputs) != 1:
        raise InvalidArgument(f"which input? NAME=..., of: {', '.join(signature.inputs) or 'none'}")
    return next(iter(signature.inputs.items()))


def _is_b64(value: Mapping[str, Any]) -> bool:
    return value.keys() == {"b64"}


def _array(value: Any, name: str, info: TensorInfo) -> object:
    """A JSON value as the signature's type."""
    try:
        if info.dtype == DataType.DT_STRING:
            return np.array(_decoded(value), object)
        if is_bits(info.dtype):
            raise Unimplemented(
                f"input '{name}' is {info.dtype_name}: that needs ml_dtypes (pip install ml_dtypes)"
            )
        return Typed(np.array(value).astype(info.numpy_type), DataType(info.dtype))
    except TfsError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise _no_such_type(name, info, error) from None


def _no_such_type(name: str, info: TensorInfo, error: Exception) -> InvalidArgument:
    return InvalidArgument(f"input '{name}' does not become {info.dtype_name}: {error}")


def _typed(array: Array, name: str, info: TensorInfo) -> Array:
    """An array from a file as the signature's type."""
    try:
        return array if info.dtype == DataType.DT_STRING else array.astype(info.numpy_type, copy=False)
    except (ValueError, TypeError) as error:
        raise _no_such_type(name, info, error) from None


def _saved(path: Path) -> Mapping[str, Array]:
    """The arrays of an .npz by name; that of an .npy under the empty one. Pickled objects are refused: reading them runs them."""
    try:
        with path.open("rb") as file:
            found = np.load(file)
            if (path.suffix == ".npz") == isinstance(found, np.ndarray):
                raise ValueError("the other of the two kinds")
            return {"": found} if isinstance(found, np.ndarray) else dict(found)
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise InvalidArgument(f"{path} is no {path.suffix} file of plain arrays") from None


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(one) for one in value]
    if isinstance(value, dict) and _is_b64(value):
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, str):
        return value.encode()
    raise ValueError(f"expected a string, got {value!r:.40}")


def _from_file(path: Path, name: str, info: TensorInfo) -> object:
    if path.suffix == ".npy":
        return _typed(_saved(path)[""], name, info)
    data = path.read_bytes()
    if info.dtype == DataType.DT_STRING:  # encoded images, texts: the model decodes them
        return np.full([1] * len(info.shape or ()), data, object)
    if path.suffix.lower() in _IMAGES:
        return _image(data, path, name, info)
    raise InvalidArgument(
        f"{path}: input '{name}' is {info.dtype_name}; from files come .json, .npy, .npz and images"
    )


def _image(data: bytes, path: Path, name: str, info: TensorInfo) -> Array:
    """An image as the signature wants it: [batch, height, width] with or without channels; floats from 0 to 1, integers to 255."""
    try:
        from PIL import Image
    except ImportError:
        raise Unimplemented("reading images needs Pillow: pip install pillow") from None
    if info.shape is None or len(info.shape) not in (2, 3, 4):
        raise InvalidArgument(f"{path}: input '{name}' has the shape {info.shape}, which is no image's")
    height, width, *channels = info.shape[1:] if len(info.shape) > 2 else (28, 28)
    depth = channels[0] if channels else 1
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("L" if depth == 1 else "RGB")
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for damaged files, by format
        raise InvalidArgument(f"{path} is no image that Pillow can read") from None
    if height is not None and width is not None:
        image = image.resize((width, height))
    array: Array = np.asarray(image, np.float32)
    if info.numpy_type.kind not in "iu":
        array = array / 255
    if channels and depth == 1:
        array = array[..., None]
    if len(info.shape) == 2:
        array = array.reshape(-1)
    return array[None].astype(info.numpy_type)
