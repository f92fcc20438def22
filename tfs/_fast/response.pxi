# response.pxi: the result of a Call -> PredictResponse bytes.
#
# Owns: the layout of PredictResponse and of the TensorProtos in it.  Must not know: how the result came about, who wants the bytes.
# Strategy: response_size measures every output once and keeps what it found in the call's arena; response_write then writes
# front to back, each tensor byte once, with one memcpy where memory and wire agree (fixed-width values, tensor_content).
# Values go into typed fields, packed, never run-length compressed; with `as_content` into tensor_content.

cdef enum:                         # fields of tensorflow.serving.PredictResponse
    RESPONSE_FIELD_OUTPUTS = 1
    RESPONSE_FIELD_SPEC = 2

cdef struct ReplyTensor:           # one output as it will be written; sizes in bytes
    Span alias
    TF_Tensor* tensor
    const uint8_t* data            # first byte of its rows
    int64_t elements
    int64_t rows                   # what dim 0 becomes; -1: the tensor's own
    int32_t dtype
    int32_t rank
    size_t shape_size              # body of tensor_shape
    size_t values_size             # body of the values' field; for typed strings: all string_val fields with their tags
    size_t proto_size              # TensorProto
    size_t entry_size              # map entry

cdef extern from * nogil:
    """
    /* A signed T is extended to 64 bits by its sign, as protobuf writes int32 and int64. */
    template <class T> static size_t reply_varints_size_of(const void* data, int64_t count) {
        const T* at = (const T*)data;
        size_t size = 0;
        for (int64_t i = 0; i < count; i++) size += ((63 - __builtin_clzll((uint64_t)at[i] | 1)) * 9 + 73) >> 6;
        return size;
    }
    template <class T> static uint8_t* reply_put_varints_of(uint8_t* out, const void* data, int64_t count) {
        const T* at = (const T*)data;
        for (int64_t i = 0; i < count; i++) {
            uint64_t value = (uint64_t)at[i];
            for (; value >= 0x80; value >>= 7) *out++ = (uint8_t)(value | 0x80);
            *out++ = (uint8_t)value;
        }
        return out;
    }
    #define REPLY_BY_WIDTH(call_of, ...)                                                                              \\
        switch (size) {                                                                                               \\
            case 1: return is_signed ? call_of<int8_t>(__VA_ARGS__) : call_of<uint8_t>(__VA_ARGS__);                  \\
            case 2: return is_signed ? call_of<int16_t>(__VA_ARGS__) : call_of<uint16_t>(__VA_ARGS__);                \\
            case 4: return is_signed ? call_of<int32_t>(__VA_ARGS__) : call_of<uint32_t>(__VA_ARGS__);                \\
            default: return is_signed ? call_of<int64_t>(__VA_ARGS__) : call_of<uint64_t>(__VA_ARGS__);               \\
        }
    static size_t reply_varints_size(int size, int is_signed, const void* data, int64_t count) {
        REPLY_BY_WIDTH(reply_varints_size_of, data, count)
    }
    static uint8_t* reply_put_varints(int size, int is_signed, uint8_t* out, const void* data, int64_t count) {
        REPLY_BY_WIDTH(reply_put_varints_of, out, data, count)
    }
    #undef REPLY_BY_WIDTH
    """
    size_t reply_varints_size(int size, bint is_signed, const void* data, int64_t count) noexcept
    uint8_t* reply_put_varints(int size, bint is_signed, uint8_t* out, const void* data, int64_t count) noexcept


# -- size

cdef inline int64_t reply_dim(const ReplyTensor* part, int axis) noexcept nogil:
    return part.rows if axis == 0 and part.rows >= 0 else tf.Dim(part.tensor, axis)


cdef inline size_t reply_dim_size(int64_t dim) noexcept nogil:
    """Body of one Dim: a size of 0 is the default and is left out."""
    return 0 if dim == 0 else 1 + wire_varint_size(<uint64_t>dim)


cdef size_t reply_strings_size(const ReplyTensor* part, bint as_content) noexcept nogil:
    cdef const TF_TString* strings = <const TF_TString*>part.data
    cdef size_t size = 0
    cdef size_t length
    cdef int64_t i
    for i in range(part.elements):
        length = tf.StringGetSize(&strings[i])
        size += wire_varint_size(length) + length
    return size if as_content else size + part.elements


cdef size_t reply_values_size(const ReplyTensor* part, const DtypeRow* row, bint as_content) noexcept nogil:
    if row.kind == KIND_STRING:
        return reply_strings_size(part, as_content)
    if not as_content and (row.kind == KIND_SIGNED or row.kind == KIND_UNSIGNED):
        return reply_varints_size(row.size, row.kind == KIND_SIGNED, part.data, part.elements)
    return part.elements * row.size


cdef inline size_t reply_tag_size(uint32_t field) noexcept nogil:
    return 1 if field < 16 else 2


cdef void reply_measure(ReplyTensor* part, bint as_content) noexcept nogil:
    """From `tensor`, `rows` and the first row in `data` (as a number of elements to skip is already added): all the sizes."""
    cdef const DtypeRow* row = dtype_row(part.dtype)
    cdef size_t body
    cdef int axis
    part.shape_size = 0
    for axis in range(part.rank):
        body = reply_dim_size(reply_dim(part, axis))
        part.shape_size += wire_bytes_size(body)
    part.values_size = 0
    part.proto_size = 1 + wire_varint_size(part.dtype) + wire_bytes_size(part.shape_size)
    if part.elements > 0:
        part.values_size = reply_values_size(part, row, as_content)
        if row.kind == KIND_STRING and not as_content:
            part.proto_size += part.values_size
        else:
            part.proto_size += reply_tag_size(TENSOR_FIELD_CONTENT if as_content else row.field)
            part.proto_size += wire_varint_size(part.values_size) + part.values_size
    part.entry_size = wire_bytes_size(part.alias.len) + wire_bytes_size(part.proto_size)


cdef void reply_slice(Call* call, ReplyTensor* part) noexcept nogil:
    """Which elements of the tensor belong to this call: all, or its rows of the batch."""
    cdef int64_t per_row = 1
    cdef int axis
    part.dtype = tf.TensorType(part.tensor)
    part.rank = tf.NumDims(part.tensor)
    part.data = <const uint8_t*>tf.TensorData(part.tensor)
    part.rows = call.row_count if call.result.rows >= 0 and part.rank > 0 else -1
    for axis in range(1, part.rank):
        per_row *= tf.Dim(part.tensor, axis)
    if part.rank == 0:
        part.elements = 1
        return
    part.elements = per_row * reply_dim(part, 0)
    if part.rows >= 0:
        part.data += call.row_begin * per_row * tensor_size(part.dtype)


cdef inline Span response_signature(const Call* call) noexcept nogil:
    cdef Span name
    if call.signature.len > 0:
        return call.signature
    name.ptr = <const uint8_t*>"serving_default"
    name.len = 15
    return name


cdef inline size_t response_version_size(int64_t version) noexcept nogil:
    """Body of the Int64Value."""
    return 0 if version == 0 else 1 + wire_varint_size(<uint64_t>version)


cdef size_t response_spec_size(const Call* call) noexcept nogil:
    """Body of model_spec."""
    return (
        wire_bytes_size(call.model.len) + wire_bytes_size(response_version_size(call.servable.version))
        + wire_bytes_size(response_signature(call).len)
    )


cdef inline int32_t response_count(const Call* call) noexcept nogil:
    return call.wanted_count if call.wanted != NULL else call.result.count


cdef size_t response_size(Call* call, bint as_content) noexcept nogil:
    """Bytes of the reply; 0 = it cannot be made, and `status` says why. Call once, before response_write with the same flag.

    Only the consumer of an answered call may call it: it takes memory from the call's arena."""
    cdef int32_t count = response_count(call)
    cdef size_t size = wire_bytes_size(response_spec_size(call))
    cdef ReplyTensor* part
    cdef int32_t i, at
    call.reply = <ReplyTensor*>arena_take(&call.arena, count * sizeof(ReplyTensor))
    if call.reply == NULL:
        status_set(&call.status, RESOURCE_EXHAUSTED, "Not enough memory to encode the PredictResponse")
        return 0
    for i in range(count):
        part = &call.reply[i]
        at = call.wanted[i] if call.wanted != NULL else i
        part.alias = call.plan.outputs[call.fetch.index[at]].alias
        part.tensor = call.result.tensors[at]
        reply_slice(call, part)
        if tensor_size(part.dtype) == 0:
            status_quote(&call.status, UNIMPLEMENTED, "Output \"", part.alias, "\" is a ")
            text_str(&call.status.text, dtype_row(part.dtype).name)
            text_str(&call.status.text, " tensor, which cannot be sent")
            return 0
        reply_measure(part, as_content)
        size += wire_bytes_size(part.entry_size)
    return size


# -- write: `out` has room, by the sizes above

cdef inline uint8_t* reply_put_head(uint8_t* out, uint32_t field, size_t length) noexcept nogil:
    """Tag and length of a length-delimited field."""
    return wire_put_varint(wire_put_varint(out, (field << 3) | WIRE_BYTES), length)


cdef inline uint8_t* reply_put_raw(uint8_t* out, const void* data, size_t size) noexcept nogil:
    memcpy(out, data, size)
    return out + size


cdef uint8_t* reply_put_strings(uint8_t* out, const ReplyTensor* part, bint as_content) noexcept nogil:
    """tensor_content: all lengths, then all bytes; string_val: a field per string."""
    cdef const TF_TString* strings = <const TF_TString*>part.data
    cdef size_t length
    cdef int64_t i
    if as_content:
        for i in range(part.elements):
            out = wire_put_varint(out, tf.StringGetSize(&strings[i]))
    for i in range(part.elements):
        length = tf.StringGetSize(&strings[i])
        if not as_content:
            out = reply_put_head(out, TENSOR_FIELD_STRING, length)
        out = reply_put_raw(out, tf.StringGetDataPointer(&strings[i]), length)
    return out


cdef uint8_t* reply_put_values(uint8_t* out, const ReplyTensor* part, bint as_content) noexcept nogil:
    cdef const DtypeRow* row = dtype_row(part.dtype)
    cdef int64_t i
    if part.elements == 0:
        return out
    if as_content or row.kind != KIND_STRING:
        out = reply_put_head(out, TENSOR_FIELD_CONTENT if as_content else row.field, part.values_size)
    if row.kind == KIND_STRING:
        return reply_put_strings(out, part, as_content)
    if as_content or row.kind == KIND_FIXED or row.kind == KIND_BYTES:
        return reply_put_raw(out, part.data, part.values_size)
    if row.kind == KIND_BOOL:
        for i in range(part.elements):
            out[i] = part.data[i] != 0
        return out + part.elements
    return reply_put_varints(row.size, row.kind == KIND_SIGNED, out, part.data, part.elements)


cdef uint8_t* reply_put_tensor(uint8_t* out, const ReplyTensor* part, bint as_content) noexcept nogil:
    """One entry of `outputs`."""
    cdef int64_t dim
    cdef int axis
    out = reply_put_head(out, RESPONSE_FIELD_OUTPUTS, part.entry_size)
    out = wire_put_bytes(out, (ENTRY_FIELD_KEY << 3) | WIRE_BYTES, part.alias)
    out = reply_put_head(out, ENTRY_FIELD_VALUE, part.proto_size)
    out = wire_put_varint(wire_put_varint(out, (TENSOR_FIELD_DTYPE << 3) | WIRE_VARINT), part.dtype)
    out = reply_put_head(out, TENSOR_FIELD_SHAPE, part.shape_size)
    for axis in range(part.rank):
        dim = reply_dim(part, axis)
        out = reply_put_head(out, SHAPE_FIELD_DIM, reply_dim_size(dim))
        if dim != 0:
            out = wire_put_varint(wire_put_varint(out, (DIM_FIELD_SIZE << 3) | WIRE_VARINT), <uint64_t>dim)
    return reply_put_values(out, part, as_content)


cdef uint8_t* response_write(Call* call, bint as_content, uint8_t* out) noexcept nogil:
    """Writes exactly the bytes that response_size counted; returns where they end."""
    cdef int64_t version = call.servable.version
    cdef int32_t i
    for i in range(response_count(call)):
        out = reply_put_tensor(out, &call.reply[i], as_content)
    out = reply_put_head(out, RESPONSE_FIELD_SPEC, response_spec_size(call))
    out = wire_put_bytes(out, (SPEC_FIELD_NAME << 3) | WIRE_BYTES, call.model)
    out = reply_put_head(out, SPEC_FIELD_VERSION, response_version_size(version))
    if version != 0:
        out = wire_put_varint(wire_put_varint(out, (INT64VALUE_FIELD_VALUE << 3) | WIRE_VARINT), <uint64_t>version)
    return wire_put_bytes(out, (SPEC_FIELD_SIGNATURE << 3) | WIRE_BYTES, response_signature(call))
