# client_codec.pxi: the client's side of Predict: buffers -> PredictRequest bytes, PredictResponse bytes -> shapes and values.
#
# Owns: the layout of a request's inputs; which outputs can stay where they lie.  Must not know: numpy, channels, models.
# Strategy: encoding measures every input, then writes the request's bytes once (numbers as tensor_content: one memcpy each); decoding
# reads with tensor_decode and hands out slices of the reply, so that only varints are ever written anew.
# tfs/client/_codec_py.py is the slow twin with the same face: what changes here changes there.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.ref cimport Py_REFCNT

cdef enum:
    CLIENT_MAX_MESSAGE = 2147483647   # protobuf's own limit
    CLIENT_ALONE_BYTES = 65536        # from here on a copy takes longer than to give the GIL away
    # A request of megabytes beside gRPC's copy of it is more than malloc keeps: it would give both back to the kernel after every call
    # and fault them in again, which costs three times as much as the whole call.  So a thread keeps its last request of such a size.
    CLIENT_KEEP_LEAST = 262144
    CLIENT_KEEP_MOST = 67108864


cdef class _ClientInput:
    """One input as it will be written; holds its buffer until the request is made."""

    cdef bytes alias
    cdef object shape
    cdef list strings                 # DT_STRING; otherwise None
    cdef Py_buffer view
    cdef bint held
    cdef uint64_t dtype
    cdef size_t shape_size, values_size, proto_size, entry_size

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    cdef int measure(self, bytes alias, uint64_t dtype, object shape, object data) except -1:
        """`data`: a list of bytes for DT_STRING, else a C-contiguous buffer of little-endian values."""
        cdef bytes text
        self.alias = alias
        self.dtype = dtype
        self.shape = shape
        self.shape_size = 0
        for dim in shape:
            self.shape_size += wire_bytes_size(reply_dim_size(dim))
        self.values_size = 0
        self.proto_size = 1 + wire_varint_size(dtype) + wire_bytes_size(self.shape_size)
        if dtype == DTYPE_STRING:
            self.strings = data
            for text in self.strings:
                self.values_size += wire_bytes_size(len(text))
            self.proto_size += self.values_size
        else:
            PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)
            self.held = True
            self.values_size = self.view.len
            if self.values_size:
                self.proto_size += wire_bytes_size(self.values_size)
        self.entry_size = wire_bytes_size(len(alias)) + wire_bytes_size(self.proto_size)
        return 0

    cdef uint8_t* write(self, uint8_t* out) except NULL:
        """Exactly the bytes that `measure` counted, tag and length of the map entry before them."""
        cdef int64_t dim
        cdef bytes text
        out = reply_put_head(out, REQUEST_FIELD_INPUTS, self.entry_size)
        out = wire_put_bytes(out, (ENTRY_FIELD_KEY << 3) | WIRE_BYTES, bytes_span(self.alias))
        out = reply_put_head(out, ENTRY_FIELD_VALUE, self.proto_size)
        out = wire_put_varint(wire_put_varint(out, (TENSOR_FIELD_DTYPE << 3) | WIRE_VARINT), self.dtype)
        out = reply_put_head(out, TENSOR_FIELD_SHAPE, self.shape_size)
        for size in self.shape:
            dim = size
            out = reply_put_head(out, SHAPE_FIELD_DIM, reply_dim_size(dim))
            if dim != 0:
                out = wire_put_varint(wire_put_varint(out, (DIM_FIELD_SIZE << 3) | WIRE_VARINT), <uint64_t>dim)
        if self.strings is not None:
            for text in self.strings:
                out = wire_put_bytes(out, (TENSOR_FIELD_STRING << 3) | WIRE_BYTES, bytes_span(text))
        elif self.values_size:
            out = reply_put_head(out, TENSOR_FIELD_CONTENT, self.values_size)
            if self.values_size < CLIENT_ALONE_BYTES:
                memcpy(out, self.view.buf, self.values_size)
            else:
                with nogil:
                    memcpy(out, self.view.buf, self.values_size)
            out += self.values_size
        return out


cdef object client_last = threading.local()


cdef bytes client_room(size_t size):
    """`size` bytes to write into: this thread's last request when it was as long and nobody holds it any more, else new ones."""
    cdef bytes room
    if size < CLIENT_KEEP_LEAST or size > CLIENT_KEEP_MOST:
        return PyBytes_FromStringAndSize(NULL, size)
    room = getattr(client_last, "request", None)
    if room is None or <size_t>len(room) != size or Py_REFCNT(room) != 2:  # the thread's reference and ours
        room = PyBytes_FromStringAndSize(NULL, size)
        client_last.request = room
    return room


def client_encode(head: bytes, inputs: object) -> bytes:
    """`head` (the fields model_spec and output_filter, serialized) and the inputs (alias, dtype, shape, data) as a PredictRequest."""
    cdef list parts = []
    cdef _ClientInput part
    cdef size_t size = len(head)
    cdef uint8_t* out
    for alias, dtype, shape, data in inputs:
        part = _ClientInput()
        part.measure(alias, dtype, shape, data)
        size += wire_bytes_size(part.entry_size)
        parts.append(part)
    if size > CLIENT_MAX_MESSAGE:
        raise errors.InvalidArgument(f"a request of {size} bytes cannot be sent: protobuf ends at 2147483647")
    cdef bytes request = client_room(size)
    out = <uint8_t*>PyBytes_AS_STRING(request)
    memcpy(out, PyBytes_AS_STRING(head), len(head))
    out += len(head)
    for part in parts:
        out = part.write(out)
    return request


# -- decode

cdef list client_strings(const TensorSpan* span):
    """The elements of a DT_STRING tensor; missing ones repeat the last, or are empty."""
    cdef Cursor cursor = wire_cursor(span.proto)
    cdef Cursor lengths = wire_cursor(span.content)
    cdef uint32_t field, wire_type, size = 0
    cdef Span value
    cdef int64_t i
    found = []
    if span.content.len != 0:
        cursor = lengths
        for i in range(span.elements):
            tensor_varint32(&cursor, &size)
        for i in range(span.elements):
            tensor_varint32(&lengths, &size)
            found.append((<const char*>cursor.at)[:size])
            cursor.at += size
        return found
    while len(found) < span.elements and wire_tag(&cursor, &field, &wire_type) == 0:
        if field == TENSOR_FIELD_STRING and wire_type == WIRE_BYTES:
            wire_bytes(&cursor, &value)
            found.append(span_bytes(value))
        else:
            wire_skip(&cursor, field, wire_type)
    last = found[len(found) - 1] if found else b""
    return found + [last] * (span.elements - len(found))


cdef object client_numbers(const TensorSpan* span, object reply, const uint8_t* base):
    """The values as memory: a slice of the reply where they lie there as they are, otherwise a bytearray."""
    cdef size_t size = span.elements * tensor_size(span.dtype)
    cdef const uint8_t* at = NULL
    cdef void* out
    if span.content.len != 0:
        at = span.content.ptr
    elif span.packed.len >= size:
        at = span.packed.ptr
    if at != NULL and size > 0:
        return reply[at - base:at - base + size]
    made = PyByteArray_FromStringAndSize(NULL, size)
    out = PyByteArray_AS_STRING(made)
    with nogil:
        tensor_fill(span, out)
    return memoryview(made)


cdef object client_tensor(Span proto, Span alias, object reply, const uint8_t* base):
    """(dtype, shape, list of bytes or memoryview)."""
    cdef Arena arena
    cdef TensorSpan span
    arena_init(&arena)
    try:
        if tensor_decode(proto, alias, &arena, &span) < 0 or span.bad:
            name = span_bytes(alias).decode("utf-8", "replace")
            raise errors.Internal(f'the reply cannot be read: outputs["{name}"] is no tensor')
        shape = tuple([span.dims[i] for i in range(span.rank)])
        if span.dtype == DTYPE_STRING:
            return span.dtype, shape, client_strings(&span)
        return span.dtype, shape, client_numbers(&span, reply, base)
    finally:
        arena_free(&arena)


cdef int client_entry(Span entry, Span* key, Span* value) noexcept nogil:
    """A map entry; the last of several keys or values stands. -1: malformed."""
    cdef Cursor cursor = wire_cursor(entry)
    cdef uint32_t field, wire_type
    key.ptr = value.ptr = entry.ptr
    key.len = value.len = 0
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &wire_type) < 0:
            return -1
        if wire_type == WIRE_BYTES and (field == ENTRY_FIELD_KEY or field == ENTRY_FIELD_VALUE):
            if wire_bytes(&cursor, key if field == ENTRY_FIELD_KEY else value) < 0:
                return -1
        elif wire_skip(&cursor, field, wire_type) < 0:
            return -1
    return 0


def client_decode(reply: bytes) -> tuple:
    """PredictResponse -> ({alias: (dtype, shape, values)}, serialized ModelSpec). Values are memoryviews into `reply` (or into memory
    of their own where the wire writes them otherwise), for DT_STRING lists of bytes. Raises Internal on what is no PredictResponse."""
    cdef const uint8_t* base = <const uint8_t*>PyBytes_AS_STRING(reply)
    cdef Cursor cursor = wire_cursor(bytes_span(reply))
    cdef uint32_t field, wire_type
    cdef Span span, key, value
    view = memoryview(reply)
    outputs = {}
    spec = b""
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &wire_type) < 0:
            raise errors.Internal("the reply cannot be read: it is no PredictResponse")
        if wire_type == WIRE_BYTES and (field == RESPONSE_FIELD_OUTPUTS or field == RESPONSE_FIELD_SPEC):
            if wire_bytes(&cursor, &span) < 0:
                raise errors.Internal("the reply cannot be read: it is no PredictResponse")
            if field == RESPONSE_FIELD_SPEC:
                spec = span_bytes(span)
                continue
            if client_entry(span, &key, &value) < 0:
                raise errors.Internal("the reply cannot be read: it is no PredictResponse")
            outputs[span_bytes(key).decode("utf-8", "replace")] = client_tensor(value, key, view, base)
        elif wire_skip(&cursor, field, wire_type) < 0:
            raise errors.Internal("the reply cannot be read: it is no PredictResponse")
    return outputs, spec
