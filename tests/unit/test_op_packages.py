"""Op packages on demand: which package an op belongs to, which of its libraries are loaded, what the user is told.

The libraries are files that only mention ops, and loading is recorded; real ones are too large to keep.  That a load of a model is
tried again is in tests/serving/test_engine_tf.py.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tfs import op_linker
from tfs.errors import Code, FailedPrecondition, NotFound, TfsError
from tfs.op_packages import PACKAGES, OpPackage, OpPackages

MODULE = "tfs_test_ops"
PACKAGE = OpPackage(MODULE, "tfs-test-ops", ("ops/*.so",), ("Mine>*", "Known"))


def missing(op: str) -> str:
    return f"Op type not registered '{op}' in binary running on host. Make sure the Op and Kernel are registered."


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What load_op_library was called with."""
    calls: list[str] = []
    monkeypatch.setattr(op_linker, "load_op_library", lambda path: calls.append(str(path)))
    return calls


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the package's libraries; importing the package would fail."""
    ops = tmp_path / MODULE / "ops"
    ops.mkdir(parents=True)
    (ops.parent / "__init__.py").write_text("raise ImportError('must not be imported')")
    (ops / "a.so").write_bytes(b"\x7fELF..Mine>First\0..")
    (ops / "b.so").write_bytes(b"\x7fELF..Mine>Second\0..Known\0")
    monkeypatch.syspath_prepend(str(tmp_path))
    return ops


def test_only_the_library_with_the_op_is_loaded_and_only_once(installed: Path, loaded: list[str]) -> None:
    packages = OpPackages((PACKAGE,))
    assert packages.ensure_ops(missing("Mine>Second"))
    assert loaded == [str(installed / "b.so")]
    assert not packages.ensure_ops(missing("Known")), "it is loaded: another try would end the same way"
    assert packages.ensure_ops(missing("Mine>First"))
    assert loaded == [str(installed / "b.so"), str(installed / "a.so")]
    assert MODULE not in sys.modules


def test_a_load_that_began_before_another_one_brought_the_library_is_tried_again(
    installed: Path, loaded: list[str]
) -> None:
    """Three versions of a model loaded side by side: the library came for the first, the other two failed for good."""
    packages = OpPackages((PACKAGE,))
    assert packages.ensure_ops(missing("Known"))
    with ThreadPoolExecutor(1) as other:
        assert other.submit(packages.ensure_ops, missing("Known")).result()
        assert not other.submit(packages.ensure_ops, missing("Known")).result()
    assert loaded == [str(installed / "b.so")]


@pytest.mark.parametrize(
    "text", ["", "no such file", missing("Stranger"), missing("Mine"), missing("Known2")]
)
def test_other_errors_are_not_ours(installed: Path, loaded: list[str], text: str) -> None:
    assert not OpPackages((PACKAGE,)).ensure_ops(text)
    assert loaded == []


def test_an_op_that_the_installed_package_lacks(installed: Path, loaded: list[str]) -> None:
    assert not OpPackages((PACKAGE,)).ensure_ops(missing("Mine>Newer"))


def test_a_package_that_is_not_installed_is_named(loaded: list[str]) -> None:
    with pytest.raises(NotFound) as caught:
        OpPackages((PACKAGE,)).ensure_ops(missing("Known"))
    assert str(caught.value).startswith(missing("Known"))
    assert "pip install tfs-test-ops" in str(caught.value)


def test_a_library_that_does_not_load_is_named(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise TfsError("undefined symbol: thing", Code.NOT_FOUND)

    monkeypatch.setattr(op_linker, "load_op_library", fail)
    with pytest.raises(FailedPrecondition) as caught:
        OpPackages((PACKAGE,)).ensure_ops(missing("Known"))
    assert str(caught.value) == (
        f"the model needs the op Known of tfs-test-ops, but {installed / 'b.so'} does not load: undefined symbol: thing"
    )


@pytest.mark.parametrize(
    ("op", "pip"),
    [
        ("TFText>NgramsStringJoin", "tensorflow-text"),
        ("SentencepieceTokenizeOp", "tensorflow-text"),
        ("RegexSplitWithOffsets", "tensorflow-text"),
        ("SimpleMLInferenceOpWithHandle", "tensorflow-decision-forests"),
        ("Addons>Resampler", "tensorflow-addons"),
        ("MatMul", None),
    ],
)
def test_the_table(op: str, pip: str | None) -> None:
    assert next((package.pip for package in PACKAGES if package.has(op)), None) == pip
