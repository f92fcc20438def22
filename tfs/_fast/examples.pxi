# examples.pxi: a request with an Input -> the rest of it, and its Examples as the string values of a TensorProto.
#
# Owns: the field numbers of Input and Example, protobuf's merge rules for Input.  Must not know: models, signatures, the engine.
# Strategy: three walks over the same bytes without the GIL, because requests of many megabytes come from anybody: the first checks that all
# is protobuf and counts, the second measures and joins the contexts, the third writes.  Nothing is made per Example.

cdef enum:
    REQUEST_FIELD_INPUT = 2        # of ClassificationRequest, RegressionRequest and MultiInferenceRequest
    INPUT_FIELD_LIST = 1           # of Input, a oneof
    INPUT_FIELD_LIST_WITH_CONTEXT = 2
    LIST_FIELD_EXAMPLE = 1         # of both lists
    LIST_FIELD_CONTEXT = 2
    TENSOR_STRING_TAG = 66         # TensorProto.string_val
    # As for tensors: what a request may stand for beyond the bytes that were sent.
    EXAMPLES_MAX_CONTEXT_BYTES = 268435456
    EXAMPLES_MAX_BYTES = 2147483647

cdef enum ExamplesMode:
    EXAMPLES_CHECK
    EXAMPLES_MEASURE
    EXAMPLES_WRITE

# What a length-delimited field of an Example's messages holds, by message and field (1 to 3).
cdef enum:
    HOLDS_ANYTHING = 0
    HOLDS_FEATURES = 1             # up to HOLDS_INTS: messages, by their number here; an Example is message 0
    HOLDS_ENTRY = 2
    HOLDS_FEATURE = 3
    HOLDS_BYTES = 4
    HOLDS_FLOATS = 5
    HOLDS_INTS = 6
    HOLDS_TEXT = 7
    HOLDS_PACKED_FLOATS = 8
    HOLDS_PACKED_INTS = 9

cdef int8_t[28] example_fields
example_fields[:] = [
    0, HOLDS_FEATURES, 0, 0,                          # Example
    0, HOLDS_ENTRY, 0, 0,                             # Features
    0, HOLDS_TEXT, HOLDS_FEATURE, 0,                  # one entry of the map
    0, HOLDS_BYTES, HOLDS_FLOATS, HOLDS_INTS,         # Feature
    0, 0, 0, 0,                                       # BytesList
    0, HOLDS_PACKED_FLOATS, 0, 0,                     # FloatList
    0, HOLDS_PACKED_INTS, 0, 0,                       # Int64List
]

cdef struct ExamplesWalk:
    int mode
    uint32_t kind                  # which member of the oneof is set; 0 = none
    int64_t switches               # how often the other member was set: that drops what came before
    int64_t last                   # `switches` at the end, known after the first walk
    size_t count
    size_t context_len
    size_t bytes                   # of the values with their tags and lengths, known after the second walk
    uint8_t* context               # EXAMPLES_MEASURE: where the next piece goes; EXAMPLES_WRITE: the beginning
    uint8_t* out


cdef int examples_packed_ints(Span span) noexcept nogil:
    cdef Cursor cursor = wire_cursor(span)
    cdef uint64_t ignored
    while cursor.at < cursor.end:
        if wire_varint(&cursor, &ignored) < 0:
            return -1
    return 0


cdef int examples_message(Span span, int message) noexcept nogil:
    """Whether a message of an Example is one, and everything inside: -1 when not.  At most five deep."""
    cdef Cursor cursor = wire_cursor(span)
    cdef uint32_t field, wire_type
    cdef Span value
    cdef int holds, rc
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &wire_type) < 0:
            return -1
        if wire_type != WIRE_BYTES:
            if wire_skip(&cursor, field, wire_type) < 0:
                return -1
            continue
        if wire_bytes(&cursor, &value) < 0:
            return -1
        holds = example_fields[4 * message + field] if field < 4 else HOLDS_ANYTHING
        if holds == HOLDS_ANYTHING:
            rc = 0
        elif holds == HOLDS_TEXT:
            rc = 0 if wire_utf8(value) else -1
        elif holds == HOLDS_PACKED_FLOATS:
            rc = 0 if value.len % 4 == 0 else -1
        elif holds == HOLDS_PACKED_INTS:
            rc = examples_packed_ints(value)
        else:
            rc = examples_message(value, holds)
        if rc < 0:
            return -1
    return 0


cdef int examples_one(ExamplesWalk* walk, Span example) noexcept nogil:
    cdef size_t size = walk.context_len + example.len
    if walk.mode == EXAMPLES_CHECK:
        walk.count += 1
        return examples_message(example, 0)
    if walk.switches != walk.last:
        return 0
    if walk.mode == EXAMPLES_MEASURE:
        walk.bytes += wire_bytes_size(size)
        return 0
    walk.out[0] = TENSOR_STRING_TAG
    walk.out = wire_put_varint(walk.out + 1, size)
    memcpy(walk.out, walk.context, walk.context_len)
    memcpy(walk.out + walk.context_len, example.ptr, example.len)
    walk.out += size
    return 0


cdef int examples_context(ExamplesWalk* walk, Span context) noexcept nogil:
    """Contexts merge as messages do: one after the other."""
    if walk.mode == EXAMPLES_CHECK:
        walk.context_len += context.len
        return examples_message(context, 0)
    if walk.mode == EXAMPLES_MEASURE and walk.switches == walk.last:
        memcpy(walk.context, context.ptr, context.len)
        walk.context += context.len
    return 0


cdef int examples_list(ExamplesWalk* walk, Span span) noexcept nogil:
    cdef Cursor cursor = wire_cursor(span)
    cdef uint32_t field, wire_type
    cdef Span value
    cdef int rc
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &wire_type) < 0:
            return -1
        if wire_type == WIRE_BYTES and field == LIST_FIELD_EXAMPLE:
            rc = wire_bytes(&cursor, &value)
            if rc == 0:
                rc = examples_one(walk, value)
        elif wire_type == WIRE_BYTES and field == LIST_FIELD_CONTEXT and walk.kind == INPUT_FIELD_LIST_WITH_CONTEXT:
            rc = wire_bytes(&cursor, &value)
            if rc == 0:
                rc = examples_context(walk, value)
        else:
            rc = wire_skip(&cursor, field, wire_type)
        if rc < 0:
            return -1
    return 0


cdef int examples_input(ExamplesWalk* walk, Span span) noexcept nogil:
    cdef Cursor cursor = wire_cursor(span)
    cdef uint32_t field, wire_type
    cdef Span value
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &wire_type) < 0:
            return -1
        if wire_type != WIRE_BYTES or field > INPUT_FIELD_LIST_WITH_CONTEXT:
            if wire_skip(&cursor, field, wire_type) < 0:
                return -1
            continue
        if walk.kind != field:
            walk.switches += 1
            walk.kind = field
            if walk.mode == EXAMPLES_CHECK:
                walk.count = walk.context_len = 0
        if wire_bytes(&cursor, &value) < 0 or examples_list(walk, value) < 0:
            return -1
    return 0


cdef int examples_walk(ExamplesWalk* walk, Span body, int mode, uint8_t* rest, size_t* rest_len) noexcept nogil:
    """One walk over a request.  `rest` (may be NULL) gets all fields but the Input; `rest_len` their length."""
    cdef Cursor cursor = wire_cursor(body)
    cdef const uint8_t* begin
    cdef uint32_t field, wire_type
    cdef Span value
    walk.mode = mode
    walk.kind = 0
    walk.switches = 0
    rest_len[0] = 0
    while cursor.at < cursor.end:
        begin = cursor.at
        if wire_tag(&cursor, &field, &wire_type) < 0:
            return -1
        if field == REQUEST_FIELD_INPUT and wire_type == WIRE_BYTES:
            if wire_bytes(&cursor, &value) < 0 or examples_input(walk, value) < 0:
                return -1
            continue
        if wire_skip(&cursor, field, wire_type) < 0:
            return -1
        if rest != NULL:
            memcpy(rest + rest_len[0], begin, cursor.at - begin)
        rest_len[0] += cursor.at - begin
    return 0


def take_examples(body: bytes) -> tuple[bytes, bytes, int]:
    """See _fastpath.pyi."""
    cdef ExamplesWalk walk
    cdef Span span = bytes_span(body)
    cdef size_t rest_len
    cdef bytes rest, context, values
    cdef uint8_t* rest_at
    cdef int rc
    memset(&walk, 0, sizeof(walk))
    with nogil:
        rc = examples_walk(&walk, span, EXAMPLES_CHECK, NULL, &rest_len)
    if rc < 0:
        raise errors.Internal("")
    if walk.count and walk.context_len > EXAMPLES_MAX_CONTEXT_BYTES // walk.count:
        raise errors.InvalidArgument(
            f"{walk.count} Examples with a context of {walk.context_len} bytes are more than {EXAMPLES_MAX_CONTEXT_BYTES} bytes together")
    walk.last = walk.switches
    context = PyBytes_FromStringAndSize(NULL, walk.context_len)
    rest = PyBytes_FromStringAndSize(NULL, rest_len)
    walk.context = <uint8_t*>PyBytes_AS_STRING(context)
    rest_at = <uint8_t*>PyBytes_AS_STRING(rest)
    with nogil:
        examples_walk(&walk, span, EXAMPLES_MEASURE, rest_at, &rest_len)
    if walk.bytes > EXAMPLES_MAX_BYTES:
        raise errors.InvalidArgument(f"{walk.count} Examples of {walk.bytes} bytes together are more than {EXAMPLES_MAX_BYTES}")
    values = PyBytes_FromStringAndSize(NULL, walk.bytes)
    walk.context = <uint8_t*>PyBytes_AS_STRING(context)
    walk.out = <uint8_t*>PyBytes_AS_STRING(values)
    with nogil:
        examples_walk(&walk, span, EXAMPLES_WRITE, NULL, &rest_len)
    return rest, values, walk.count
