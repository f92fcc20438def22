# tensor.pxi: TensorProto bytes <-> TF_Tensor: decode to a TensorSpan, allocate, fill.
#
# Owns: the meaning of TensorProto's fields; the table of TensorFlow functions `tf`.  Must not know: calls, models, who sent the bytes.
# Strategy: tensor_decode walks the proto once and notes where the values lie; nothing is copied and no claimed shape allocates.
# What is not protobuf is -1; what parses but cannot become a tensor (Tensor::FromProto would refuse it) is `bad`.  tensor_fill
# then writes each value once: one memcpy for tensor_content and for one packed chunk of fixed-width values, loops for the rest.
# "Scalar" below is one number of a typed field: a complex element is two of them.  Little-endian machines only (as the wire is).

cdef TfApi tf                      # filled once, by tensorflow.pxi or fake.pxi, before the first tensor

cdef enum:
    # The reference fills any declared shape from one value, so that thirty bytes can claim all memory.  Values that were sent are
    # always accepted (at most 24 bytes of tensor per byte on the wire: empty strings); the part that is only repeated or zero is
    # bounded by this: 64 Mi floats is above any input we know of, and a handful of such requests still fits into memory.
    TENSOR_MAX_FILL_BYTES = 268435456


# -- decode

cdef struct TensorScan:            # what one walk over a TensorProto found; lives on the stack
    int32_t dtype
    int32_t rank                   # may exceed TENSOR_MAX_RANK; only that many dims are kept
    Span content
    int64_t scalars[TENSOR_FIELDS]  # per typed field
    int32_t chunks[TENSOR_FIELDS]
    Span chunk[TENSOR_FIELDS]      # the last chunk; valid where chunks > 0
    int64_t dims[TENSOR_MAX_RANK]


cdef int tensor_scan_dim(Span proto, int64_t* size) noexcept nogil:
    """One TensorShapeProto.Dim. -1: malformed (a name that is not UTF-8 included)."""
    cdef Cursor cursor = wire_cursor(proto)
    cdef uint32_t field, wire_type
    cdef uint64_t value
    cdef Span name
    size[0] = 0
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &wire_type) < 0:
            return -1
        if field == DIM_FIELD_SIZE and wire_type == WIRE_VARINT:
            if wire_varint(&cursor, &value) < 0:
                return -1
            size[0] = <int64_t>value
        elif field == DIM_FIELD_NAME and wire_type == WIRE_BYTES:
            if wire_bytes(&cursor, &name) < 0 or not wire_utf8(name):
                return -1
        elif wire_skip(&cursor, field, wire_type) < 0:
            return -1
    return 0


cdef int tensor_scan_shape(Span proto, TensorScan* scan) noexcept nogil:
    """Appends the dims of one occurrence of tensor_shape: a repeated message field merges by concatenation."""
    cdef Cursor cursor = wire_cursor(proto)
    cdef uint32_t field, wire_type
    cdef int64_t size
    cdef Span dim
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &wire_type) < 0:
            return -1
        if field == SHAPE_FIELD_DIM and wire_type == WIRE_BYTES:
            if wire_bytes(&cursor, &dim) < 0 or tensor_scan_dim(dim, &size) < 0:
                return -1
            if scan.rank < TENSOR_MAX_RANK:
                scan.dims[scan.rank] = size
            if scan.rank <= TENSOR_MAX_RANK:
                scan.rank += 1
        elif wire_skip(&cursor, field, wire_type) < 0:
            return -1
    return 0


cdef int tensor_scan_values(Cursor* cursor, uint32_t field, uint32_t wire_type, TensorScan* scan) noexcept nogil:
    """One occurrence of a typed field: counts its scalars. -1: malformed (a chunk that is cut inside a value included)."""
    cdef int single = dtype_field_wire[field]
    cdef Span* chunk = &scan.chunk[field]
    cdef int64_t count = 1
    cdef int width
    if wire_type == <uint32_t>single and single != WIRE_BYTES:
        chunk.ptr = cursor.at
        if wire_skip(cursor, field, wire_type) < 0:
            return -1
        chunk.len = cursor.at - chunk.ptr
    elif wire_type == WIRE_BYTES:
        if wire_bytes(cursor, chunk) < 0:
            return -1
        if single == WIRE_VARINT:
            count = dtype_count_varints(chunk.ptr, chunk.ptr + chunk.len)
            if count < 0:
                return -1
        elif single != WIRE_BYTES:
            width = 4 if single == WIRE_FIXED32 else 8
            if chunk.len % width != 0:
                return -1
            count = chunk.len // width
    else:
        return wire_skip(cursor, field, wire_type)
    if field == TENSOR_FIELD_FLOAT8:                   # a singular bytes field: the last one stands
        scan.scalars[field] = chunk.len
        scan.chunks[field] = 1
        return 0
    scan.scalars[field] += count
    scan.chunks[field] += 1
    return 0


cdef int tensor_scan(Span proto, TensorScan* scan) noexcept nogil:
    cdef Cursor cursor = wire_cursor(proto)
    cdef uint32_t field, wire_type
    cdef uint64_t value
    cdef Span span
    scan.dtype = 0
    scan.rank = 0
    scan.content.ptr = NULL
    scan.content.len = 0
    memset(scan.scalars, 0, sizeof(scan.scalars))
    memset(scan.chunks, 0, sizeof(scan.chunks))
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &wire_type) < 0:
            return -1
        if field < TENSOR_FIELDS and dtype_field_wire[field] != 255:
            if tensor_scan_values(&cursor, field, wire_type, scan) < 0:
                return -1
        elif field == TENSOR_FIELD_DTYPE and wire_type == WIRE_VARINT:
            if wire_varint(&cursor, &value) < 0:
                return -1
            scan.dtype = <int32_t>value
        elif field == TENSOR_FIELD_SHAPE and wire_type == WIRE_BYTES:
            if wire_bytes(&cursor, &span) < 0 or tensor_scan_shape(span, scan) < 0:
                return -1
        elif field == TENSOR_FIELD_CONTENT and wire_type == WIRE_BYTES:
            if wire_bytes(&cursor, &scan.content) < 0:
                return -1
        elif wire_skip(&cursor, field, wire_type) < 0:
            return -1
    return 0


cdef int64_t tensor_elements(const int64_t* dims, int rank) noexcept nogil:
    """The product of the dims, or -1: a negative dim, or more than 2^63 - 1 in dim order (so a later 0 does not heal it)."""
    cdef int64_t elements = 1
    cdef int i
    for i in range(rank):
        if dims[i] < 0 or dtype_mul_overflows(elements, dims[i], &elements):
            return -1
    return elements


cdef inline int tensor_varint32(Cursor* cursor, uint32_t* value) noexcept nogil:
    """The lengths inside string content: at most five bytes, bits beyond 32 are dropped."""
    cdef uint32_t result = 0
    cdef uint8_t byte
    cdef int shift = 0
    while cursor.at < cursor.end and shift <= 28:
        byte = cursor.at[0]
        cursor.at += 1
        result |= <uint32_t>(byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = result
            return 0
        shift += 7
    return -1


cdef bint tensor_string_content(Span content, int64_t elements) noexcept nogil:
    """Whether `content` is `elements` varint32 lengths followed by exactly that many bytes."""
    cdef Cursor cursor = wire_cursor(content)
    cdef uint64_t total = 0
    cdef uint32_t size
    cdef int64_t i
    for i in range(elements):
        if tensor_varint32(&cursor, &size) < 0:
            return False
        total += size
    return total == <uint64_t>(cursor.end - cursor.at)


cdef bint tensor_bool_content(Span content) noexcept nogil:
    """Whether every byte is 0 or 1: TensorFlow refuses others."""
    cdef uint8_t seen = 0
    cdef size_t i
    for i in range(content.len):
        seen |= content.ptr[i]
    return seen <= 1


cdef bint tensor_usable(TensorSpan* out, const DtypeRow* row) noexcept nogil:
    """Whether Tensor::FromProto would make a tensor of it (and whether we are willing to fill it)."""
    if out.elements == 0:
        return True
    if out.content.len != 0:
        if row.kind == KIND_STRING:
            return tensor_string_content(out.content, out.elements)
        if row.kind == KIND_BOOL and not tensor_bool_content(out.content):
            return False
        return out.content.len % row.size == 0 and <uint64_t>out.elements == out.content.len // row.size
    return out.elements - out.values <= TENSOR_MAX_FILL_BYTES // row.size


cdef int tensor_decode(Span proto, Span alias, Arena* arena, TensorSpan* out) noexcept nogil:
    """TensorProto bytes -> `out`. 0, or -1 when they are not protobuf; see `bad` for what is but cannot become a tensor."""
    cdef TensorScan scan
    cdef const DtypeRow* row
    memset(out, 0, sizeof(TensorSpan))
    if tensor_scan(proto, &scan) < 0:
        return -1
    row = dtype_row(scan.dtype)
    out.alias = alias
    out.proto = proto
    out.content = scan.content
    out.dtype = scan.dtype
    out.bad = 1
    out.rows = -1
    if row.size == 0 or scan.rank > TENSOR_MAX_RANK:
        return 0
    out.elements = tensor_elements(scan.dims, scan.rank)
    if out.elements < 0:
        out.elements = 0
        return 0
    out.dims = <int64_t*>arena_take(arena, scan.rank * sizeof(int64_t))
    if out.dims == NULL:
        return 0
    memcpy(out.dims, scan.dims, scan.rank * sizeof(int64_t))
    out.rank = scan.rank
    if scan.rank > 0:
        out.rows = scan.dims[0]
    out.values = scan.scalars[row.field] // row.scalars
    if scan.chunks[row.field] == 1 and (row.kind == KIND_FIXED or row.kind == KIND_BYTES):
        out.packed = scan.chunk[row.field]
    out.bad = 0 if tensor_usable(out, row) else 1
    return 0


# -- fill

cdef inline uint8_t* tensor_store(uint8_t* at, const DtypeRow* row, uint64_t value) noexcept nogil:
    """One varint scalar: bool, or an integer modulo 2^(8*size)."""
    cdef uint16_t v2
    cdef uint32_t v4
    if row.size == 1:
        at[0] = (value != 0) if row.kind == KIND_BOOL else <uint8_t>value
    elif row.size == 2:
        v2 = <uint16_t>value
        memcpy(at, &v2, 2)
    elif row.size == 4:
        v4 = <uint32_t>value
        memcpy(at, &v4, 4)
    else:
        memcpy(at, &value, 8)
    return at + row.size


cdef uint8_t* tensor_fill_chunk(Span chunk, const DtypeRow* row, uint8_t* at, uint8_t* end) noexcept nogil:
    """The scalars of one chunk (already validated), as many as fit before `end`; returns where the next one goes."""
    cdef Cursor cursor = wire_cursor(chunk)
    cdef uint64_t value
    cdef size_t size
    if row.kind == KIND_FIXED or row.kind == KIND_BYTES:
        size = <size_t>(end - at)
        if size > chunk.len:
            size = chunk.len
        memcpy(at, chunk.ptr, size)
        return at + size
    while at < end and wire_varint(&cursor, &value) == 0:
        at = tensor_store(at, row, value)
    return at


cdef void tensor_fill_rescan(const TensorSpan* span, const DtypeRow* row, uint8_t* at, uint8_t* end) noexcept nogil:
    """Several chunks, single values or varints: walks the proto again and copies what its typed field holds."""
    cdef Cursor cursor = wire_cursor(span.proto)
    cdef uint32_t field, wire_type
    cdef Span chunk
    cdef uint32_t single = dtype_field_wire[row.field]
    while at < end and wire_tag(&cursor, &field, &wire_type) == 0:
        if field == row.field and wire_type == WIRE_BYTES:
            if wire_bytes(&cursor, &chunk) < 0:
                return
        elif field == row.field and wire_type == single:
            chunk.ptr = cursor.at
            if wire_skip(&cursor, field, wire_type) < 0:
                return
            chunk.len = cursor.at - chunk.ptr
        elif wire_skip(&cursor, field, wire_type) < 0:
            return
        else:
            continue
        at = tensor_fill_chunk(chunk, row, at, end)


cdef void tensor_repeat(uint8_t* data, size_t filled, size_t total, size_t size) noexcept nogil:
    """Repeats the last of the `filled` bytes' elements up to `total`; each memcpy doubles what is there."""
    cdef uint8_t* last = data + filled - size
    cdef size_t have = size
    cdef size_t rest = total - filled
    cdef size_t step
    while rest > 0:
        step = have if have < rest else rest
        memcpy(last + have, last, step)
        have += step
        rest -= step


cdef void tensor_fill_numbers(const TensorSpan* span, const DtypeRow* row, uint8_t* data) noexcept nogil:
    cdef int64_t given = span.values if span.values < span.elements else span.elements
    cdef size_t filled = given * row.size
    cdef size_t total = span.elements * row.size
    if span.content.len != 0:
        memcpy(data, span.content.ptr, total)
    elif given == 0:
        memset(data, 0, total)
    else:
        if span.packed.len != 0:
            memcpy(data, span.packed.ptr, filled)
        else:
            tensor_fill_rescan(span, row, data, data + filled)
        tensor_repeat(data, filled, total, row.size)


cdef void tensor_fill_strings(const TensorSpan* span, TF_TString* strings) noexcept nogil:
    """Into initialised strings (empty ones, so nothing is written where nothing was sent)."""
    cdef Cursor lengths = wire_cursor(span.content)
    cdef Cursor cursor = wire_cursor(span.proto)
    cdef uint32_t field, wire_type
    cdef uint32_t size = 0
    cdef const uint8_t* text
    cdef Span value = span.content
    cdef int64_t i = 0
    if span.content.len != 0:
        cursor = lengths
        for i in range(span.elements):
            tensor_varint32(&cursor, &size)
        text = cursor.at
        for i in range(span.elements):
            tensor_varint32(&lengths, &size)
            tf.StringCopy(&strings[i], <const char*>text, size)
            text += size
        return
    while i < span.elements and i < span.values and wire_tag(&cursor, &field, &wire_type) == 0:
        if field == TENSOR_FIELD_STRING and wire_type == WIRE_BYTES:
            wire_bytes(&cursor, &value)
            tf.StringCopy(&strings[i], <const char*>value.ptr, value.len)
            i += 1
        else:
            wire_skip(&cursor, field, wire_type)
    if i > 0:
        for i in range(i, span.elements):
            tf.StringCopy(&strings[i], <const char*>value.ptr, value.len)


cdef void tensor_fill(const TensorSpan* span, void* dest) noexcept nogil:
    """Writes the `elements` values of a span that is not bad: numbers, or into initialised TF_TStrings. Cannot fail."""
    cdef const DtypeRow* row = dtype_row(span.dtype)
    if span.elements == 0:
        return
    if row.kind == KIND_STRING:
        tensor_fill_strings(span, <TF_TString*>dest)
    else:
        tensor_fill_numbers(span, row, <uint8_t*>dest)


cdef TF_Tensor* tensor_allocate(int dtype, const int64_t* dims, int rank) noexcept nogil:
    """A fresh tensor, numbers uninitialised, strings empty. NULL: no memory, or a size that no memory can have."""
    cdef int64_t elements = tensor_elements(dims, rank)
    cdef size_t size = tensor_size(dtype)
    cdef TF_Tensor* tensor
    cdef TF_TString* strings
    cdef int64_t i
    if elements < 0 or size == 0 or elements > INT64_MAX // <int64_t>size:
        return NULL
    tensor = tf.AllocateTensor(dtype, dims, rank, elements * size)
    if tensor != NULL and dtype == DTYPE_STRING:       # DeleteTensor destructs them, so they must be strings at once
        strings = <TF_TString*>tf.TensorData(tensor)
        for i in range(elements):
            tf.StringInit(&strings[i])
    return tensor


cdef TF_Tensor* tensor_make(const TensorSpan* span) noexcept nogil:
    """Allocate and fill; NULL = no memory (or a bad span)."""
    cdef TF_Tensor* tensor
    if span.bad:
        return NULL
    tensor = tensor_allocate(span.dtype, span.dims, span.rank)
    if tensor != NULL:
        tensor_fill(span, tf.TensorData(tensor))
    return tensor
