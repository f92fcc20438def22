# json_encode.pxi: the call's result -> the JSON reply of REST predict.
#
# Owns: the shape of the reply (predictions by row, outputs by name), and how elements print.  Must not know: HTTP, the run.
# Strategy: one pass into a growing buffer.  Floats print as the shortest text that reads back to the same value, always with a
# point or an exponent so that they stay floats.  Lists carry no white space: it is most of the reference's bytes on wide outputs.

cdef extern from * nogil:
    """
    static inline char* tfs_json_float(char* at, float v) { return std::to_chars(at, at + 32, v).ptr; }
    static inline char* tfs_json_double(char* at, double v) { return std::to_chars(at, at + 32, v).ptr; }
    static inline char* tfs_json_int(char* at, int64_t v) { return std::to_chars(at, at + 32, v).ptr; }
    static inline char* tfs_json_uint(char* at, uint64_t v) { return std::to_chars(at, at + 32, v).ptr; }
    """
    char* json_print_float "tfs_json_float"(char* at, float value) noexcept
    char* json_print_double "tfs_json_double"(char* at, double value) noexcept
    char* json_print_int "tfs_json_int"(char* at, int64_t value) noexcept
    char* json_print_uint "tfs_json_uint"(char* at, uint64_t value) noexcept

cdef enum:
    JSON_SCALAR_ROOM = 40          # no number is longer, with the comma and the brackets around it

cdef struct JsonWriter:
    char* at
    char* end
    Text* out                      # the buffer's owner; its len is written at the end
    bint full                      # memory ran out: the rest is dropped

cdef struct JsonOutput:            # one output as it will be written
    Span alias
    const uint8_t* data
    int dtype
    int rank
    int64_t* dims                  # of the call's part
    bint base64                    # a string output whose alias ends in _bytes


cdef void json_write_grow(JsonWriter* writer, size_t more) noexcept nogil:
    cdef Text* out = writer.out
    cdef char* grown = NULL
    cdef size_t used = writer.at - out.ptr if out.ptr != NULL else 0
    cdef size_t cap = (used + more) * 2 + 256
    if not writer.full:
        grown = <char*>realloc(out.ptr, cap)
    if grown == NULL:
        writer.full = True
        return
    out.ptr = grown
    out.cap = cap
    writer.at = grown + used
    writer.end = grown + cap


cdef inline bint json_write_room(JsonWriter* writer, size_t more) noexcept nogil:
    if <size_t>(writer.end - writer.at) < more:
        json_write_grow(writer, more)
    return not writer.full


cdef inline void json_write_raw(JsonWriter* writer, const char* data, size_t size) noexcept nogil:
    if json_write_room(writer, size):
        memcpy(writer.at, data, size)
        writer.at += size


cdef void json_write_str(JsonWriter* writer, const char* text) noexcept nogil:
    json_write_raw(writer, text, strlen(text))


cdef void json_write_text(JsonWriter* writer, Span text) noexcept nogil:
    """A JSON string; bytes above 127 pass as they are, valid UTF-8 or not."""
    cdef const uint8_t* at = text.ptr
    cdef const uint8_t* end = text.ptr + text.len
    cdef const uint8_t* plain
    cdef char code[8]
    json_write_raw(writer, '"', 1)
    while at < end:
        plain = at
        at = json_plain(at, end)
        json_write_raw(writer, <const char*>plain, at - plain)
        if at < end:
            json_write_raw(writer, code, json_escape_byte(at[0], code))
            at += 1
    json_write_raw(writer, '"', 1)


cdef const char* JSON_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


cdef void json_write_base64(JsonWriter* writer, Span data) noexcept nogil:
    """{"b64": "..."}, padded."""
    cdef const uint8_t* at = data.ptr
    cdef size_t left = data.len
    cdef uint32_t bits
    json_write_str(writer, '{"b64": "')
    if not json_write_room(writer, left // 3 * 4 + 8):
        return
    while left >= 3:
        bits = <uint32_t>at[0] << 16 | <uint32_t>at[1] << 8 | at[2]
        writer.at[0] = JSON_ALPHABET[bits >> 18]
        writer.at[1] = JSON_ALPHABET[bits >> 12 & 63]
        writer.at[2] = JSON_ALPHABET[bits >> 6 & 63]
        writer.at[3] = JSON_ALPHABET[bits & 63]
        writer.at += 4
        at += 3
        left -= 3
    if left:
        bits = <uint32_t>at[0] << 16 | (<uint32_t>at[1] << 8 if left == 2 else 0)
        writer.at[0] = JSON_ALPHABET[bits >> 18]
        writer.at[1] = JSON_ALPHABET[bits >> 12 & 63]
        writer.at[2] = JSON_ALPHABET[bits >> 6 & 63] if left == 2 else 61
        writer.at[3] = 61
        writer.at += 4
    json_write_str(writer, '"}')


# -- numbers.  Each prints at `at`, where JSON_SCALAR_ROOM bytes are free, and returns the end.

cdef inline char* json_print_word(char* at, const char* word) noexcept nogil:
    cdef size_t size = strlen(word)
    memcpy(at, word, size)
    return at + size


cdef inline char* json_keep_real(char* start, char* end) noexcept nogil:
    """Adds `.0` to digits alone."""
    while start < end:
        if start[0] == 46 or start[0] == 101:
            return end
        start += 1
    end[0] = 46
    end[1] = 48
    return end + 2


cdef char* json_print_not_finite(char* at, double value) noexcept nogil:
    if value != value:
        return json_print_word(at, "NaN")
    return json_print_word(at, "Infinity" if value > 0 else "-Infinity")


cdef inline char* json_print_small(char* at, double value) noexcept nogil:
    """Whole numbers 0.0 .. 999.0 (not -0.0), or NULL."""
    cdef int whole
    if not (value >= 0 and value < 1000):
        return NULL
    whole = <int>value
    if <double>whole != value or (whole == 0 and json_sign(value)):
        return NULL
    if whole >= 10:
        if whole >= 100:
            at[0] = <char>(48 + whole // 100)
            at += 1
        at[0] = <char>(48 + whole // 10 % 10)
        at += 1
    at[0] = <char>(48 + whole % 10)
    at[1] = 46
    at[2] = 48
    return at + 3


cdef inline bint json_sign(double value) noexcept nogil:
    cdef uint64_t bits
    memcpy(&bits, &value, 8)
    return bits >> 63


cdef inline char* json_print_real32(char* at, float value) noexcept nogil:
    cdef char* end = json_print_small(at, value)
    if end != NULL:
        return end
    if value - value != 0:
        return json_print_not_finite(at, value)
    return json_keep_real(at, json_print_float(at, value))


cdef inline char* json_print_real64(char* at, double value) noexcept nogil:
    cdef char* end = json_print_small(at, value)
    if end != NULL:
        return end
    if value - value != 0:
        return json_print_not_finite(at, value)
    return json_keep_real(at, json_print_double(at, value))


cdef float json_widen_half(uint16_t half) noexcept nogil:
    """float16 -> float32, exact."""
    cdef uint32_t sign = <uint32_t>(half & 0x8000) << 16
    cdef uint32_t exponent = half >> 10 & 31
    cdef uint32_t bits = half & 0x3FF
    cdef float value
    if exponent == 0:
        value = <float>bits * <float>5.9604644775390625e-08     # 2^-24
        return -value if sign else value
    bits = sign | (bits << 13) | ((0xFF if exponent == 31 else exponent + 112) << 23)
    memcpy(&value, &bits, 4)
    return value


cdef float json_widen_bfloat16(uint16_t word) noexcept nogil:
    cdef uint32_t bits = <uint32_t>word << 16
    cdef float value
    memcpy(&value, &bits, 4)
    return value


cdef char* json_print_element(char* at, int dtype, const uint8_t* data) noexcept nogil:
    """One element that is neither float, double nor string; NULL: the dtype does not print."""
    cdef int64_t whole = 0
    cdef uint64_t natural = 0
    cdef uint16_t word
    cdef int kind = json_class(dtype)
    cdef size_t width = tensor_size(dtype)
    if kind == JSON_NOTHING or kind == JSON_STRINGS:
        return NULL
    if kind == JSON_BOOLS:
        return json_print_word(at, "true" if data[0] else "false")
    if kind == JSON_FLOATS:
        memcpy(&word, data, 2)
        return json_print_real32(at, json_widen_half(word) if dtype == DTYPE_HALF else json_widen_bfloat16(word))
    memcpy(&natural, data, width)
    if dtype_row(dtype).kind != KIND_SIGNED:
        return json_print_uint(at, natural)
    whole = <int64_t>(natural << (64 - 8 * width)) >> (64 - 8 * width)
    return json_print_int(at, whole)


# -- tensors

cdef void json_write_floats(JsonWriter* writer, const uint8_t* data, int64_t count) noexcept nogil:
    """count > 0 floats with commas between them."""
    cdef float value
    cdef int64_t i
    cdef char* at = writer.at
    for i in range(count):
        if writer.end - at < JSON_SCALAR_ROOM:
            writer.at = at
            if not json_write_room(writer, JSON_SCALAR_ROOM):
                return
            at = writer.at
        memcpy(&value, data + i * 4, 4)
        at = json_print_real32(at, value)
        at[0] = 44
        at += 1
    writer.at = at - 1


cdef void json_write_doubles(JsonWriter* writer, const uint8_t* data, int64_t count) noexcept nogil:
    cdef double value
    cdef int64_t i
    for i in range(count):
        if not json_write_room(writer, JSON_SCALAR_ROOM):
            return
        memcpy(&value, data + i * 8, 8)
        writer.at = json_print_real64(writer.at, value)
        writer.at[0] = 44
        writer.at += 1
    writer.at -= 1


cdef void json_write_strings(JsonWriter* writer, const JsonOutput* output, int64_t begin, int64_t count) noexcept nogil:
    cdef TF_TString* strings = <TF_TString*>output.data
    cdef Span text
    cdef int64_t i
    for i in range(begin, begin + count):
        if i > begin:
            json_write_raw(writer, ",", 1)
        text.ptr = <const uint8_t*>tf.StringGetDataPointer(&strings[i])
        text.len = tf.StringGetSize(&strings[i])
        if output.base64:
            json_write_base64(writer, text)
        else:
            json_write_text(writer, text)


cdef void json_write_values(JsonWriter* writer, const JsonOutput* output, int64_t begin, int64_t count) noexcept nogil:
    """Elements begin .. begin + count, with commas between them."""
    cdef size_t width = tensor_size(output.dtype)
    cdef const uint8_t* data = output.data + begin * width
    cdef int64_t i
    if count == 0:
        return
    if output.dtype == DTYPE_FLOAT:
        json_write_floats(writer, data, count)
    elif output.dtype == DTYPE_DOUBLE:
        json_write_doubles(writer, data, count)
    elif output.dtype == DTYPE_STRING:
        json_write_strings(writer, output, begin, count)
    else:
        for i in range(count):
            if not json_write_room(writer, JSON_SCALAR_ROOM):
                return
            writer.at = json_print_element(writer.at, output.dtype, data + i * width)
            writer.at[0] = 44
            writer.at += 1
        writer.at -= 1


cdef void json_write_nested(JsonWriter* writer, const JsonOutput* output, int axis, int64_t begin, int64_t elements) noexcept nogil:
    """The part of the tensor from axis `axis` on: `elements` elements from `begin`.  Recursion as deep as the rank (at most 254)."""
    cdef int64_t size, i
    if axis == output.rank:
        json_write_values(writer, output, begin, 1)
        return
    size = output.dims[axis]
    json_write_raw(writer, "[", 1)
    if axis == output.rank - 1:
        json_write_values(writer, output, begin, size)
    else:
        for i in range(size):
            if i > 0:
                json_write_raw(writer, ",", 1)
            if writer.full:
                return
            json_write_nested(writer, output, axis + 1, begin + i * (elements // size), elements // size)
    json_write_raw(writer, "]", 1)


cdef inline int64_t json_elements(const JsonOutput* output, int axis) noexcept nogil:
    """The product of the dims from `axis` on."""
    cdef int64_t count = 1
    cdef int i
    for i in range(axis, output.rank):
        count *= output.dims[i]
    return count


cdef void json_write_key(JsonWriter* writer, Span alias) noexcept nogil:
    json_write_text(writer, alias)
    json_write_raw(writer, ": ", 2)


cdef void json_write_columns(JsonWriter* writer, const JsonOutput* outputs, int count) noexcept nogil:
    cdef int i
    json_write_str(writer, '{"outputs": ')
    if count > 1:
        json_write_raw(writer, "{", 1)
    for i in range(count):
        if i > 0:
            json_write_raw(writer, ",", 1)
        if count > 1:
            json_write_key(writer, outputs[i].alias)
        json_write_nested(writer, &outputs[i], 0, 0, json_elements(&outputs[i], 0))
    json_write_str(writer, "}}" if count > 1 else "}")


cdef void json_write_rows(JsonWriter* writer, const JsonOutput* outputs, int count) noexcept nogil:
    cdef int64_t rows = outputs[0].dims[0]
    cdef int64_t row, step
    cdef int i
    json_write_str(writer, '{"predictions": [')
    for row in range(rows):
        json_write_str(writer, ",{" if count > 1 and row > 0 else ("{" if count > 1 else ("," if row > 0 else "")))
        for i in range(count):
            if i > 0:
                json_write_raw(writer, ",", 1)
            if count > 1:
                json_write_key(writer, outputs[i].alias)
            step = json_elements(&outputs[i], 1)
            json_write_nested(writer, &outputs[i], 1, row * step, step)
        if count > 1:
            json_write_raw(writer, "}", 1)
        if writer.full:
            return
    json_write_str(writer, "]}")


# -- the reply

cdef bint json_ends_in_bytes(Span alias) noexcept nogil:
    return alias.len >= 6 and memcmp(alias.ptr + alias.len - 6, "_bytes", 6) == 0


cdef int json_output(Call* call, int index, JsonOutput* output) noexcept nogil:
    """Describes the call's part of tensor `index` of the fetch set."""
    cdef TF_Tensor* tensor = (&call.result.tensors[0])[index]
    cdef int64_t step = 1
    cdef int i
    output.alias = call.plan.outputs[call.fetch.index[index]].alias
    output.dtype = tf.TensorType(tensor)
    output.rank = tf.NumDims(tensor)
    output.data = <const uint8_t*>tf.TensorData(tensor)
    output.base64 = json_ends_in_bytes(output.alias)
    output.dims = <int64_t*>arena_take(&call.arena, (output.rank + 1) * sizeof(int64_t))
    if output.dims == NULL:
        return status_set(&call.status, RESOURCE_EXHAUSTED, "Out of memory while writing the JSON reply")
    for i in range(output.rank):
        output.dims[i] = tf.Dim(tensor, i)
        if i > 0:
            step *= output.dims[i]
    if call.result.rows >= 0 and output.rank > 0:
        output.dims[0] = call.row_count
        output.data += call.row_begin * step * <int64_t>tensor_size(output.dtype)
    return OK


cdef int json_check_outputs(Call* call, const JsonOutput* outputs, int count) noexcept nogil:
    """What the reference refuses to write."""
    cdef Text* text = &call.status.text
    cdef int i
    if count == 0:
        return json_fail(call, "Cannot convert empty tensor map to JSON")
    for i in range(count):
        if call.json_format != JSON_ROWS:
            break
        if outputs[i].rank == 0:
            return status_quote(&call.status, INVALID_ARGUMENT, "Tensor name: ", outputs[i].alias, " has no shape information ")
        if outputs[i].dims[0] != outputs[0].dims[0]:
            status_quote(&call.status, INVALID_ARGUMENT, "Tensor name: ", outputs[i].alias, " has inconsistent batch size: ")
            text_int(text, outputs[i].dims[0])
            text_str(text, " expecting: ")
            text_int(text, outputs[0].dims[0])
            return INVALID_ARGUMENT
    for i in range(count):
        if json_class(outputs[i].dtype) == JSON_NOTHING and json_elements(&outputs[i], 0) > 0:
            json_fail(call, "Failed to write JSON value for tensor type: ")
            text_str(text, dtype_row(outputs[i].dtype).name)
            return INVALID_ARGUMENT
    return OK


cdef int json_encode(Call* call, Text* out) noexcept nogil:
    """The reply for call.result, appended to the empty `out` (the caller frees it).  OK, or a code with the status written."""
    cdef int count = call.wanted_count if call.wanted != NULL else call.result.count
    cdef JsonOutput* outputs = <JsonOutput*>arena_take(&call.arena, (count + 1) * sizeof(JsonOutput))
    cdef JsonWriter writer
    cdef int i, rc
    if outputs == NULL:
        return status_set(&call.status, RESOURCE_EXHAUSTED, "Out of memory while writing the JSON reply")
    for i in range(count):
        rc = json_output(call, call.wanted[i] if call.wanted != NULL else i, &outputs[i])
        if rc != OK:
            return rc
    rc = json_check_outputs(call, outputs, count)
    if rc != OK:
        return rc
    writer.out = out
    writer.at = out.ptr
    writer.end = out.ptr + out.cap
    writer.full = False
    if call.json_format == JSON_ROWS:
        json_write_rows(&writer, outputs, count)
    else:
        json_write_columns(&writer, outputs, count)
    if writer.full:
        return status_set(&call.status, RESOURCE_EXHAUSTED, "Out of memory while writing the JSON reply")
    out.len = writer.at - out.ptr
    return OK
