# request.pxi: PredictRequest bytes -> the decode fields of a Call.
#
# Owns: the field numbers of PredictRequest and ModelSpec, and protobuf's merge rules for them.  Must not know: models, signatures.
# Strategy: one walk counts the map entries (so the arrays have their final size, from bytes already seen), a second one decodes.
# Later occurrences win or merge as protobuf says: scalars are overwritten, model_spec merges by decoding into the same fields,
# a map entry's key replaces an earlier equal one.  Malformed bytes are INVALID_ARGUMENT; a tensor that is only unusable is `bad`.

cdef enum:                         # fields of tensorflow.serving.PredictRequest, its map entry, ModelSpec, and Int64Value
    REQUEST_FIELD_SPEC = 1
    REQUEST_FIELD_INPUTS = 2
    REQUEST_FIELD_FILTER = 3
    ENTRY_FIELD_KEY = 1
    ENTRY_FIELD_VALUE = 2
    SPEC_FIELD_NAME = 1
    SPEC_FIELD_VERSION = 2
    SPEC_FIELD_SIGNATURE = 3
    SPEC_FIELD_LABEL = 4
    INT64VALUE_FIELD_VALUE = 1

cdef enum:
    REQUEST_LINEAR_INPUTS = 16     # up to so many, duplicate keys are found by comparing all pairs; beyond, by sorting
    # An entry of two bytes costs 136 here.  No signature comes near this number, and 18 MB is what a hostile request may cost.
    REQUEST_MAX_INPUTS = 131072
    REQUEST_MAX_FILTER = 131072

cdef struct KeyOrder:              # for sorting inputs by key, stable
    Span alias
    int32_t order


cdef int request_malformed(Call* call, const char* where) noexcept nogil:
    status_set(&call.status, INVALID_ARGUMENT, "PredictRequest cannot be parsed: ")
    text_str(&call.status.text, where)
    return INVALID_ARGUMENT


cdef int request_no_memory(Call* call) noexcept nogil:
    return status_set(&call.status, RESOURCE_EXHAUSTED, "Not enough memory to decode the PredictRequest")


cdef int request_version(Call* call, Span proto) noexcept nogil:
    """google.protobuf.Int64Value, merged into `version` when a version is already there."""
    cdef Cursor cursor = wire_cursor(proto)
    cdef uint32_t field, wire_type
    cdef uint64_t value
    if call.version_choice != VERSION_NUMBER:
        call.version_choice = VERSION_NUMBER
        call.version = 0
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &wire_type) < 0:
            return -1
        if field == INT64VALUE_FIELD_VALUE and wire_type == WIRE_VARINT:
            if wire_varint(&cursor, &value) < 0:
                return -1
            call.version = <int64_t>value
        elif wire_skip(&cursor, field, wire_type) < 0:
            return -1
    return 0


cdef int request_spec(Call* call, Span proto) noexcept nogil:
    """ModelSpec. -1: malformed. The last of version and version_label stands (a oneof)."""
    cdef Cursor cursor = wire_cursor(proto)
    cdef uint32_t field, wire_type
    cdef Span value
    call.has_spec = 1
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &wire_type) < 0:
            return -1
        if wire_type != WIRE_BYTES or field > SPEC_FIELD_LABEL:
            if wire_skip(&cursor, field, wire_type) < 0:
                return -1
            continue
        if wire_bytes(&cursor, &value) < 0:
            return -1
        if field == SPEC_FIELD_VERSION:
            if request_version(call, value) < 0:
                return -1
            continue
        if not wire_utf8(value):
            return -1
        if field == SPEC_FIELD_NAME:
            call.model = value
        elif field == SPEC_FIELD_SIGNATURE:
            call.signature = value
        else:
            call.label = value
            call.version_choice = VERSION_LABEL
    return 0


cdef Span request_merge(Span entry, size_t total, Arena* arena) noexcept nogil:
    """A map entry that gives its value more than once: the concatenation of all, which is how protobuf messages merge."""
    cdef Cursor cursor = wire_cursor(entry)
    cdef uint32_t field, wire_type
    cdef Span merged, value
    cdef uint8_t* out = <uint8_t*>arena_take(arena, total)
    merged.ptr = out
    merged.len = total
    while out != NULL and wire_tag(&cursor, &field, &wire_type) == 0:
        if field == ENTRY_FIELD_VALUE and wire_type == WIRE_BYTES and wire_bytes(&cursor, &value) == 0:
            memcpy(out, value.ptr, value.len)
            out += value.len
        else:
            wire_skip(&cursor, field, wire_type)
    return merged


cdef int request_input(Call* call, Span entry, TensorSpan* out) noexcept nogil:
    """One entry of `inputs`; a missing key is "", a missing value an empty TensorProto. Returns a code."""
    cdef Cursor cursor = wire_cursor(entry)
    cdef uint32_t field, wire_type
    cdef Span key, proto, span
    cdef size_t total = 0
    cdef int values = 0
    key.ptr = proto.ptr = entry.ptr
    key.len = proto.len = 0
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &wire_type) < 0:
            return request_malformed(call, "malformed entry in inputs")
        if wire_type == WIRE_BYTES and (field == ENTRY_FIELD_KEY or field == ENTRY_FIELD_VALUE):
            if wire_bytes(&cursor, &span) < 0:
                return request_malformed(call, "malformed entry in inputs")
            if field == ENTRY_FIELD_KEY:
                key = span
                if not wire_utf8(key):
                    return request_malformed(call, "a key of inputs is not UTF-8")
            else:
                proto = span
                total += span.len
                values += 1
        elif wire_skip(&cursor, field, wire_type) < 0:
            return request_malformed(call, "malformed entry in inputs")
    if values > 1:
        proto = request_merge(entry, total, &call.arena)
        if proto.ptr == NULL:
            return request_no_memory(call)
    if tensor_decode(proto, key, &call.arena, out) < 0:
        request_malformed(call, "malformed TensorProto in inputs[\"")
        text_span(&call.status.text, key)
        text_str(&call.status.text, "\"]")
        return INVALID_ARGUMENT
    return OK


cdef int request_compare(const void* a, const void* b) noexcept nogil:
    cdef const KeyOrder* x = <const KeyOrder*>a
    cdef const KeyOrder* y = <const KeyOrder*>b
    cdef int order = span_compare(x.alias, y.alias)
    return order if order != 0 else x.order - y.order


cdef int request_unique_sorted(Call* call) noexcept nogil:
    """Many inputs: sorts their keys and keeps the last of each run of equal ones."""
    cdef int32_t count = call.input_count
    cdef KeyOrder* keys = <KeyOrder*>malloc(count * sizeof(KeyOrder))
    cdef uint8_t* keep = <uint8_t*>calloc(count, 1)
    cdef int32_t i, kept = 0
    if keys != NULL and keep != NULL:
        for i in range(count):
            keys[i].alias = call.inputs[i].alias
            keys[i].order = i
        qsort(keys, count, sizeof(KeyOrder), request_compare)
        for i in range(count):
            keep[keys[i].order] = i + 1 == count or not span_equal(keys[i].alias, keys[i + 1].alias)
        for i in range(count):
            if keep[i]:
                call.inputs[kept] = call.inputs[i]
                kept += 1
        call.input_count = kept
    free(keys)
    free(keep)
    return OK if kept > 0 else request_no_memory(call)


cdef int request_unique(Call* call) noexcept nogil:
    """One input per key: a later entry replaces an earlier one."""
    cdef int32_t i, j, kept = 0
    if call.input_count > REQUEST_LINEAR_INPUTS:
        return request_unique_sorted(call)
    for i in range(call.input_count):
        for j in range(kept):
            if span_equal(call.inputs[j].alias, call.inputs[i].alias):
                call.inputs[j] = call.inputs[i]
                break
        else:
            if kept != i:
                call.inputs[kept] = call.inputs[i]
            kept += 1
    call.input_count = kept
    return OK


cdef int request_count(Call* call) noexcept nogil:
    """First walk: the outer fields are well-formed, how many inputs and filter strings there are; reserves their arrays."""
    cdef Cursor cursor = wire_cursor(call.body)
    cdef uint32_t field, wire_type
    cdef int64_t inputs = 0
    cdef int64_t filters = 0
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &wire_type) < 0 or wire_skip(&cursor, field, wire_type) < 0:
            return request_malformed(call, "malformed field at the outermost level")
        if wire_type == WIRE_BYTES:
            inputs += field == REQUEST_FIELD_INPUTS
            filters += field == REQUEST_FIELD_FILTER
    if inputs > REQUEST_MAX_INPUTS:
        return status_set(&call.status, INVALID_ARGUMENT, "PredictRequest has more than 131072 inputs")
    if filters > REQUEST_MAX_FILTER:
        return status_set(&call.status, INVALID_ARGUMENT, "PredictRequest has more than 131072 strings in output_filter")
    call.inputs = <TensorSpan*>arena_take(&call.arena, inputs * sizeof(TensorSpan))
    call.filter = <Span*>arena_take(&call.arena, filters * sizeof(Span))
    return OK if call.inputs != NULL and call.filter != NULL else request_no_memory(call)


cdef int request_fields(Call* call) noexcept nogil:
    """Second walk, over outer fields known to be well-formed."""
    cdef Cursor cursor = wire_cursor(call.body)
    cdef uint32_t field, wire_type
    cdef Span span
    cdef int code
    while wire_tag(&cursor, &field, &wire_type) == 0:
        if wire_type != WIRE_BYTES or wire_bytes(&cursor, &span) < 0:
            wire_skip(&cursor, field, wire_type)
            continue
        if field == REQUEST_FIELD_SPEC:
            if request_spec(call, span) < 0:
                return request_malformed(call, "malformed model_spec")
        elif field == REQUEST_FIELD_INPUTS:
            code = request_input(call, span, &call.inputs[call.input_count])
            if code != OK:
                return code
            call.input_count += 1
        elif field == REQUEST_FIELD_FILTER:
            if not wire_utf8(span):
                return request_malformed(call, "a string of output_filter is not UTF-8")
            call.filter[call.filter_count] = span
            call.filter_count += 1
    return OK


cdef int request_decode(Call* call) noexcept nogil:
    """`body` -> the decode fields (zero before). Returns a code; the text is in `status`.

    `payload_bytes` becomes what the call will occupy: its bytes or its tensors' bytes, whichever is more (a short request may
    declare large tensors that are filled from one value)."""
    cdef int64_t tensors = 0
    cdef int32_t i
    cdef int code = request_count(call)
    if code == OK:
        code = request_fields(call)
    if code == OK:
        code = request_unique(call)
    if code != OK:
        return code
    for i in range(call.input_count):
        if not call.inputs[i].bad:
            tensors += call.inputs[i].elements * <int64_t>tensor_size(call.inputs[i].dtype)
    call.payload_bytes = tensors if tensors > <int64_t>call.body.len else <int64_t>call.body.len
    return OK
