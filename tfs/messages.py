"""Protobuf message classes by short name: `messages.PredictRequest`, `messages.ModelServerConfig`, `messages.DataType`.

Owns: a private descriptor pool filled from `_descriptors.bin` (compiled from `protos/` by tools/protos.py) and the classes made from
it.  Private, because the default pool raises when TensorFlow or tensorflow-serving-api has registered a file of the same name; with
two pools both live in one process, and their messages meet as bytes.

Everything is lazy: importing this module costs nothing, the first look-up loads the pool, a class is made when first asked for.
Never used on the Predict path.  The typed face is `messages.pyi`.  All functions may be called from any thread.
"""

from __future__ import annotations

import functools
import typing
from pathlib import Path

# typing.Any is not imported by name: `messages.Any` is the protobuf message.
_DESCRIPTORS = Path(__file__).with_name("_descriptors.bin")


@functools.cache
def _loaded() -> tuple[typing.Any, dict[str, str]]:
    """The pool, and short name -> full name of every top-level message and enum in it."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    names: dict[str, str] = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes()).file:
        pool.Add(file)
        names.update(
            {top.name: f"{file.package}.{top.name}" for top in (*file.message_type, *file.enum_type)}
        )
    return pool, names


def pool() -> typing.Any:
    """The private DescriptorPool; text_format, json_format (for Any) and server reflection want it."""
    return _loaded()[0]


def __getattr__(name: str) -> typing.Any:
    """The message class, or for an enum its EnumTypeWrapper (`DataType.DT_FLOAT`, `DataType.Name(1)`)."""
    if name.startswith("__"):  # Probes of the import system must not load the pool.
        raise AttributeError(name)
    descriptors, names = _loaded()
    full_name = names.get(name)
    if full_name is None:
        raise AttributeError(f"tfs.messages has no message or enum called {name!r}")
    made = _make(descriptors, full_name)
    globals()[name] = made
    return made


def _make(descriptors: typing.Any, full_name: str) -> typing.Any:
    from google.protobuf import message_factory
    from google.protobuf.internal import enum_type_wrapper

    try:
        return message_factory.GetMessageClass(descriptors.FindMessageTypeByName(full_name))
    except KeyError:
        return enum_type_wrapper.EnumTypeWrapper(descriptors.FindEnumTypeByName(full_name))
