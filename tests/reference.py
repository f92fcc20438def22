"""The slow codec: the same answers as `_fast/{tensor,request,response}.pxi`, by protobuf and NumPy, written to be read.

Owns: the decoding and encoding tables of the TensorFlow Serving API in their plainest form.  Must not know: the compiled module.
A tensor is shown as `(dtype number, shape, raw little-endian bytes)`, for strings `(7, shape, [bytes, …])`; one that parses but
cannot become a tensor as "bad".  Malformed bytes raise `tfs.errors.InvalidArgument`.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from tfs import errors, messages

DT_STRING = 7
MAX_RANK = 254
MAX_FILL_BYTES = 1 << 28  # TENSOR_MAX_FILL_BYTES in tensor.pxi
STRING_HANDLE_BYTES = 24
START_GROUP = 3

Tensor = tuple[int, tuple[int, ...], Any]


class Dtype(NamedTuple):
    """The field that carries the values, and how one element is stored in memory."""

    field: str
    storage: str


DTYPES: dict[int, Dtype] = {
    1: Dtype("float_val", "<f4"),
    2: Dtype("double_val", "<f8"),
    3: Dtype("int_val", "<i4"),
    4: Dtype("int_val", "u1"),
    5: Dtype("int_val", "<i2"),
    6: Dtype("int_val", "i1"),
    DT_STRING: Dtype("string_val", "S"),
    8: Dtype("scomplex_val", "<c8"),
    9: Dtype("int64_val", "<i8"),
    10: Dtype("bool_val", "?"),
    11: Dtype("int_val", "i1"),  # qint8
    12: Dtype("int_val", "u1"),  # quint8
    13: Dtype("int_val", "<i4"),  # qint32
    14: Dtype("half_val", "<u2"),  # bfloat16, as bits
    15: Dtype("int_val", "<i2"),  # qint16
    16: Dtype("int_val", "<u2"),  # quint16
    17: Dtype("int_val", "<u2"),
    18: Dtype("dcomplex_val", "<c16"),
    19: Dtype("half_val", "<u2"),  # half, as bits
    22: Dtype("uint32_val", "<u4"),
    23: Dtype("uint64_val", "<u8"),
    **{number: Dtype("float8_val", "u1") for number in (24, 25, 26, 27, 28, 33)},
    29: Dtype("int_val", "i1"),  # int4: a byte each
    30: Dtype("int_val", "u1"),  # uint4
    31: Dtype("int_val", "i1"),  # int2
    32: Dtype("int_val", "u1"),  # uint2
}

# What the codec reads.  Other fields count as unknown: a server that ignores them need not look inside.
READ_FIELDS = {
    "PredictRequest": {"model_spec", "inputs", "output_filter"},
    "TensorProto": {"dtype", "tensor_shape", "tensor_content", *(row.field for row in DTYPES.values())},
    "TensorShapeProto": {"dim"},
}


@functools.cache
def request_class() -> Any:
    """PredictRequest with only the fields that are read, in a descriptor pool of its own.

    `inputs` becomes a plain list of entries: Python's protobuf drops a map entry that holds an unknown field, C++ keeps it.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(messages._DESCRIPTORS.read_bytes()).file:
        for message in file.message_type:
            keep = READ_FIELDS.get(message.name)
            if keep is not None:
                fields = [field for field in message.field if field.name in keep]
                del message.field[:]
                message.field.extend(fields)
                del message.oneof_decl[:]  # synthetic ones, of optional fields that are gone
            for nested in message.nested_type:
                if message.name == "PredictRequest":
                    nested.options.ClearField("map_entry")
        pool.Add(file)
    name = messages.PredictRequest.DESCRIPTOR.full_name
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


# --- decode -------------------------------------------------------------------------------------------------------------------


def decode(request: bytes) -> dict[str, Any]:
    """A serialized PredictRequest, as `_fastpath._probe_decode` shows it."""
    from google.protobuf.message import DecodeError

    try:
        message = request_class().FromString(request)
    except DecodeError as error:
        raise errors.InvalidArgument(f"PredictRequest cannot be parsed: {error}") from error
    if has_field_zero(message):
        raise errors.InvalidArgument("PredictRequest cannot be parsed: field number 0")
    spec = message.model_spec
    entries = [(entry.key, entry.value) for entry in message.inputs]  # a later key replaces an earlier one
    inputs = {alias: decode_tensor(proto) for alias, proto in entries}
    return {
        "model": spec.name if message.HasField("model_spec") else None,
        "version": spec.version.value if spec.HasField("version") else None,
        "label": spec.version_label if spec.HasField("version_label") else None,
        "signature": spec.signature_name,
        "filter": list(message.output_filter),
        "inputs": inputs,
        "payload_bytes": max(len(request), sum(map(memory_bytes, inputs.values()))),
    }


def has_field_zero(message: Any) -> bool:
    """Inside unknown groups Python's protobuf lets the impossible field number 0 pass; C++ does not."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    def in_unknown(fields: Any) -> bool:
        return any(
            one.field_number == 0 or (one.wire_type == START_GROUP and in_unknown(one.data)) for one in fields
        )

    known = [
        part
        for field, value in message.ListFields()
        if field.message_type is not None
        for part in (value if field.is_repeated else [value])
    ]
    return in_unknown(UnknownFieldSet(message)) or any(map(has_field_zero, known))


def memory_bytes(tensor: Tensor | str) -> int:
    if isinstance(tensor, str):
        return 0
    dtype, _, data = tensor
    return len(data) * (STRING_HANDLE_BYTES if dtype == DT_STRING else 1)


def decode_tensor(proto: Any) -> Tensor | str:
    row = DTYPES.get(proto.dtype)
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    elements = count_elements(shape)
    if row is None or elements is None or len(shape) > MAX_RANK:
        return "bad"
    if proto.dtype == DT_STRING:
        values = string_values(proto, elements)
        return "bad" if values is None else (DT_STRING, shape, values)
    data = number_values(proto, row, elements)
    return "bad" if data is None else (proto.dtype, shape, data)


def count_elements(shape: tuple[int, ...]) -> int | None:
    """The product, or None when a dim is negative or the running product leaves int64."""
    product = 1
    for size in shape:
        product *= size
        if size < 0 or product > 2**63 - 1:
            return None
    return product


def number_values(proto: Any, row: Dtype, elements: int) -> bytes | None:
    storage = np.dtype(row.storage)
    if elements == 0:
        return b""
    if proto.tensor_content:
        if storage.kind == "b" and max(proto.tensor_content) > 1:
            return None
        return proto.tensor_content if len(proto.tensor_content) == elements * storage.itemsize else None
    values = typed_values(proto, row)[:elements]
    if (elements - len(values)) * storage.itemsize > MAX_FILL_BYTES:
        return None
    last = values[-1:] if len(values) else np.zeros(1, storage)
    return values.tobytes() + last.tobytes() * (elements - len(values))


def typed_values(proto: Any, row: Dtype) -> Any:
    """The elements in the typed field; a lone half of a complex number is dropped."""
    storage = np.dtype(row.storage)
    field = getattr(proto, row.field)
    if row.field == "float8_val":
        return np.frombuffer(field, np.uint8)
    if storage.kind == "c":
        parts = np.array(list(field), storage.type(0).real.dtype)
        return parts[: len(parts) // 2 * 2].view(storage)
    if row.field == "uint64_val":
        return np.array(list(field), storage)
    if storage.kind in "iu":
        return np.array(list(field), np.int64).astype(storage)  # modulo 2^n
    return np.array(list(field), storage)


def string_values(proto: Any, elements: int) -> list[bytes] | None:
    if elements == 0:
        return []
    if proto.tensor_content:
        return split_string_content(proto.tensor_content, elements)
    values = list(proto.string_val)[:elements]
    if (elements - len(values)) * STRING_HANDLE_BYTES > MAX_FILL_BYTES:
        return None
    return values + (values[-1:] or [b""]) * (elements - len(values))


def split_string_content(content: bytes, elements: int) -> list[bytes] | None:
    """All lengths as varint32, then all bytes, nothing left over."""
    lengths: list[int] = []
    at = 0
    while len(lengths) < elements:
        length = 0
        for shift in (0, 7, 14, 21, 28):
            if at == len(content):
                return None
            byte = content[at]
            at += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        else:
            return None
        lengths.append(length & 0xFFFFFFFF)
    if sum(lengths) != len(content) - at:
        return None
    values = []
    for length in lengths:
        values.append(content[at : at + length])
        at += length
    return values


# --- encode -------------------------------------------------------------------------------------------------------------------


def encode(  # noqa: PLR0917 - the probe's face
    model: bytes,
    version: int,
    signature: bytes,
    outputs: list[tuple[bytes, int, tuple[int, ...], Any]],
    as_content: bool = False,
    rows: tuple[int, int, int] | None = None,
    wanted: list[int] | None = None,
) -> bytes:
    """A serialized PredictResponse, arguments as `_fastpath._probe_encode`."""
    response = messages.PredictResponse()
    response.model_spec.name = model.decode()
    response.model_spec.version.value = version
    response.model_spec.signature_name = signature.decode() or "serving_default"
    for index in range(len(outputs)) if wanted is None else wanted:
        alias, dtype, shape, data = outputs[index]
        if dtype not in DTYPES:
            raise errors.Unimplemented(f'Output "{alias.decode()}" cannot be sent')
        if rows is not None and shape:
            shape, data = slice_rows(dtype, shape, data, *rows[1:])
        encode_tensor(response.outputs[alias.decode()], dtype, shape, data, as_content)
    encoded: bytes = response.SerializeToString()
    return encoded


def slice_rows(
    dtype: int, shape: tuple[int, ...], data: Any, begin: int, count: int
) -> tuple[tuple[int, ...], Any]:
    stride = math.prod(shape[1:])
    if dtype != DT_STRING:
        stride *= np.dtype(DTYPES[dtype].storage).itemsize
    return (count, *shape[1:]), data[begin * stride : (begin + count) * stride]


def encode_tensor(proto: Any, dtype: int, shape: tuple[int, ...], data: Any, as_content: bool) -> None:
    row = DTYPES[dtype]
    proto.dtype = dtype
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    if as_content:
        proto.tensor_content = string_content(data) if dtype == DT_STRING else data
    elif dtype == DT_STRING:
        proto.string_val.extend(data)
    elif row.field == "float8_val":
        proto.float8_val = data
    elif row.field == "bool_val":
        proto.bool_val.extend(byte != 0 for byte in data)
    else:
        values = np.frombuffer(data, row.storage)
        if values.dtype.kind == "c":
            values = values.view(values.real.dtype)
        getattr(proto, row.field).extend(values.tolist())


def string_content(values: list[bytes]) -> bytes:
    return b"".join(varint(len(value)) for value in values) + b"".join(values)


def varint(value: int) -> bytes:
    encoded = bytearray()
    value &= 2**64 - 1
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
