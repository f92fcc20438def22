"""What the input arguments of commands become, by the types of a signature."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfs.client.dtypes import DataType, Typed
from tfs.client.types import ModelMetadata, Signature, TensorInfo
from tfs.commands import inputs
from tfs.errors import InvalidArgument, Unimplemented

X = TensorInfo("x:0", DataType.DT_FLOAT, (None, 2))
TEXT = TensorInfo("t:0", DataType.DT_STRING, (None,))
ONE = Signature({"x": X}, {})
TWO = Signature({"x": X, "text": TEXT}, {})


def values(found: object) -> np.ndarray:
    return found.values if isinstance(found, Typed) else np.asarray(found)


@pytest.mark.parametrize(
    "text", ["[[1, 2]]", '{"x": [[1, 2]]}', '{"inputs": [[1, 2]]}', '{"inputs": {"x": [[1, 2]]}}',
             '{"instances": [[1, 2]]}', '{"instances": [{"x": [1, 2]}]}', "x=[[1, 2]]"]
)  # fmt: skip
def test_the_forms_of_json(text: str) -> None:
    found = inputs.read([text], ONE)
    assert list(found) == ["x"]
    assert values(found["x"]).dtype == np.float32
    assert values(found["x"]).tolist() == [[1, 2]]


def test_several_inputs() -> None:
    found = inputs.read(["x=[[1, 2]]", "text=plain words"], TWO)
    assert values(found["text"]).tolist() == b"plain words"
    found = inputs.read(['{"instances": [{"x": [1, 2], "text": {"b64": "/w=="}}]}'], TWO)
    assert values(found["text"]).tolist() == [b"\xff"]


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.array([[1, 2]], np.float64)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", x=array)
    (tmp_path / "a.json").write_text(json.dumps({"x": [[1, 2]]}))
    (tmp_path / "a.jpeg").write_bytes(b"\xff\xd8")
    for name in ("a.npy", "a.npz", "a.json"):
        assert values(inputs.read([f"@{tmp_path / name}"], ONE)["x"]).tolist() == [[1, 2]]
    assert values(inputs.read([f"text=@{tmp_path / 'a.jpeg'}"], TWO)["text"]).tolist() == [b"\xff\xd8"]
    monkeypatch.setattr("sys.stdin", io.StringIO("[[3, 4]]"))
    assert values(inputs.read(["-"], ONE)["x"]).tolist() == [[3, 4]]
    with pytest.raises(OSError, match="none"):
        inputs.read([f"@{tmp_path / 'none.npy'}"], ONE)


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((None, 4, 6), DataType.DT_FLOAT, (1, 4, 6)),
        ((None, 4, 6, 1), DataType.DT_FLOAT, (1, 4, 6, 1)),
        ((None, None, None, 3), DataType.DT_UINT8, (1, 8, 8, 3)),
        ((None, 784), DataType.DT_FLOAT, (1, 784)),
    ],
)
def test_images(
    tmp_path: Path, shape: tuple[int | None, ...], dtype: DataType, expected: tuple[int, ...]
) -> None:
    Image.new("RGB", (8, 8), (255, 255, 255)).save(tmp_path / "white.png")
    signature = Signature({"image": TensorInfo("i:0", dtype, shape)}, {})
    found = values(inputs.read([f"@{tmp_path / 'white.png'}"], signature)["image"])
    assert found.shape == expected
    assert found.max() == (255 if dtype == DataType.DT_UINT8 else 1)


def test_images_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(Unimplemented, match="pip install pillow"):
        inputs.read([f"@{tmp_path / 'a.png'}"], ONE)


@pytest.mark.parametrize(
    ("text", "signature", "message"),
    [
        ("[1", ONE, "the argument is no JSON"),
        ('{"y": 1}', ONE, "no input 'y'; the signature has: x"),
        ("[[1, 2]]", TWO, "which input"),
        ('[["a", "b"]]', ONE, "does not become DT_FLOAT"),
        ("[[1], [2, 3]]", ONE, "does not become DT_FLOAT"),
        ("text=[1]", TWO, "does not become DT_STRING"),
        ('{"instances": []}', ONE, "'instances' must be a list"),
        ('{"instances": [{"x": [1, 2]}, {}]}', ONE, "every row"),
        ("@/dev/null", ONE, "from files come"),
    ],
)
def test_what_is_wrong(text: str, signature: Signature, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        inputs.read([text], signature)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"", "a.npy is no .npy file of plain arrays"),
        ("a.npy", b"text", "a.npy is no .npy file of plain arrays"),
        ("a.npz", b"PK\x03\x04", "a.npz is no .npz file of plain arrays"),
        ("a.npz", None, "a.npz is no .npz file of plain arrays"),
        ("a.json", b"\xff\xfe", "a.json is no JSON"),
        ("a.png", b"text", "a.png is no image that Pillow can read"),
    ],
)
def test_files_that_are_something_else(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    """None: what numpy.save writes, under the other ending."""
    saved = io.BytesIO()
    np.save(saved, np.zeros((1, 2)))
    (tmp_path / name).write_bytes(saved.getvalue() if content is None else content)
    with pytest.raises(InvalidArgument, match=message):
        inputs.read([f"@{tmp_path / name}"], Signature({"x": X._replace(shape=(None, 28, 28))}, {}))


def test_arrays_of_other_names_objects_and_types(tmp_path: Path) -> None:
    np.savez(tmp_path / "y.npz", y=np.zeros(2))
    with pytest.raises(InvalidArgument, match="no input 'y'; the signature has: x"):
        inputs.read([f"@{tmp_path / 'y.npz'}"], ONE)
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InvalidArgument, match="plain arrays"):
        inputs.read([f"@{tmp_path / 'o.npy'}"], ONE)
    np.save(tmp_path / "s.npy", np.array(["a"]))
    with pytest.raises(InvalidArgument, match="does not become DT_FLOAT"):
        inputs.read([f"@{tmp_path / 's.npy'}"], ONE)
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 2)))
    assert values(inputs.read([f"@{tmp_path / 'x.npz'}"], ONE)["x"]).dtype == np.float32


def test_zeros() -> None:
    found = inputs.zeros(TWO, rows=3)
    assert values(found["x"]).shape == (3, 2)
    assert values(found["text"]).tolist() == [b"", b"", b""]
    with pytest.raises(InvalidArgument, match="any shape"):
        inputs.zeros(Signature({"x": TensorInfo("x", 1, None)}, {}))
    with pytest.raises(InvalidArgument, match="--rows is 0: expected 1 or more"):
        inputs.zeros(TWO, rows=0)


def test_an_unknown_signature_names_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match="no signature 'b'; it has: a"):
        inputs.signature_of(ModelMetadata("m", 1, {"a": ONE}), "b")
