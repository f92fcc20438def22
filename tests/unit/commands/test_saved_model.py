"""The wire scan of saved_model.pb against protobuf's own classes, and on files that are no SavedModels or very large ones."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
from reference import varint
from wiretools import field

from tfs.commands import saved_model
from tfs.errors import InvalidArgument, NotFound
from tfs.messages import SavedModel, SignatureDef

RECORDED = Path(__file__).parents[2] / "conformance" / "models"


@pytest.mark.parametrize(
    "name", ["keras_dense", "dtypes", "multi", "methods", "defaults", "strings", "names"]
)
def test_what_protobuf_reads(name: str) -> None:
    directory = saved_model.find(RECORDED / name)
    (graph,) = saved_model.read(directory)
    (meta,) = SavedModel.FromString((directory / saved_model.FILE).read_bytes()).meta_graphs
    assert list(graph.tags) == list(meta.meta_info_def.tags)
    assert set(graph.signatures) == set(meta.signature_def) - {saved_model.INIT_SIGNATURE}
    for key, one in graph.signatures.items():
        expected = meta.signature_def[key]
        assert one.method_name == expected.method_name
        assert set(one.defaults) == set(expected.defaults)
        for ours, theirs in ((one.inputs, expected.inputs), (one.outputs, expected.outputs)):
            assert set(ours) == set(theirs)
            for alias, info in ours.items():
                sizes = tuple(None if dim.size < 0 else dim.size for dim in theirs[alias].tensor_shape.dim)
                assert info.dtype == theirs[alias].dtype
                assert info.name == theirs[alias].name
                assert info.shape == (None if theirs[alias].tensor_shape.unknown_rank else sizes)


def test_a_base_path_means_its_highest_version() -> None:
    assert saved_model.find(RECORDED / "affine").name == "3"
    assert saved_model.find(RECORDED / "affine" / "1" / "saved_model.pb").name == "1"
    assert list(saved_model.versions(RECORDED / "affine")) == [1, 2, 3]


def test_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no SavedModel in"):
        saved_model.find(tmp_path)
    (tmp_path / "saved_model.pbtxt").write_text("")
    with pytest.raises(InvalidArgument, match="in text form"):
        saved_model.find(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not protobuf at all", b"\x12\xff\xff\x03abc"])
def test_what_is_no_saved_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(InvalidArgument, match=r"is empty|is no SavedModel"):
        saved_model.read(tmp_path)


def test_a_graph_of_gigabytes_is_stepped_over(tmp_path: Path) -> None:
    """The file is sparse: reading the graph would take a second and 1.5 GB of memory."""
    graph = 3 << 29
    signature = SignatureDef(method_name="m")
    signature.inputs["x"].dtype = 1
    info = field(1, field(4, b"serve"))
    entry = field(5, field(1, b"serving_default") + field(2, signature.SerializeToString()))
    head = info + b"\x12" + varint(graph)
    start = b"\x12" + varint(len(head) + graph + len(entry)) + head
    with (tmp_path / "saved_model.pb").open("wb") as file:
        file.write(start)
        file.truncate(len(start) + graph)
        file.seek(len(start) + graph)
        file.write(entry)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    (found,) = saved_model.read(tmp_path)
    assert found.tags == ("serve",)
    assert found.signatures["serving_default"].inputs["x"].dtype_name == "DT_FLOAT"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    assert time.monotonic() - started < 1
