# json_fill.pxi: one JSON value (nested lists of scalars) straight into the bytes of a tensor.
#
# Owns: the growing buffers of one input (JsonSink) and the one-pass walk that fills them.  Must not know: documents, error texts.
# Strategy: the walk takes only what is plainly right (rectangular, of the dtype, valid JSON) and passes over everything else with
# JSON_ODD; the caller then validates the document and json_explain.pxi finds the exact text.  A buffer grows with the values
# written; it lies in a block that the call's arena owns once the input is complete.

cdef enum:
    JSON_MAX_RANK = TENSOR_MAX_RANK

cdef enum:                         # JsonFill: why a value was not taken; JSON_OK is 0
    JSON_ODD = 100                 # not plain: to be explained
    JSON_DEEP                      # nested deeper than a tensor can be
    JSON_FULL                      # no memory
    JSON_BAD_TYPE                  # a scalar of another type
    JSON_BAD_OBJECT                # an object where a string is wanted, but not {"b64": "..."}
    JSON_BAD_BASE64
    JSON_NO_CONVERSION             # the dtype takes no JSON

cdef struct JsonBuffer:
    ArenaBlock* block              # malloc; the bytes lie behind it
    size_t used
    size_t cap

cdef struct JsonSink:              # one input being filled
    int32_t dtype
    int32_t kind                   # of the dtype: what JSON it takes
    int32_t width                  # bytes per element, where it is a number
    int32_t rank                   # of one value; -1: none seen yet
    int64_t values                 # scalars stored
    int64_t stamp                  # the row that set it last (json_decode.pxi)
    JsonBuffer data                # numbers, or the strings' bytes
    JsonBuffer sizes               # the strings' lengths, varints
    int64_t dims[JSON_MAX_RANK]    # of one value; `rank` entries


cdef void json_sink_init(JsonSink* sink, int dtype) noexcept nogil:
    memset(sink, 0, sizeof(JsonSink) - sizeof(sink.dims))
    sink.dtype = dtype
    sink.kind = json_class(dtype)
    sink.width = <int32_t>tensor_size(dtype)
    sink.rank = -1
    sink.stamp = -1


cdef void json_sink_free(JsonSink* sink) noexcept nogil:
    free(sink.data.block)
    free(sink.sizes.block)
    sink.data.block = sink.sizes.block = NULL


cdef inline uint8_t* json_bytes(JsonBuffer* buffer) noexcept nogil:
    return <uint8_t*>buffer.block + sizeof(ArenaBlock)


cdef int json_buffer_grow(JsonBuffer* buffer, size_t more) noexcept nogil:
    cdef size_t cap = (buffer.used + more) * 2 + 240
    cdef void* grown = realloc(buffer.block, cap + sizeof(ArenaBlock))
    if grown == NULL:
        return JSON_FULL
    buffer.block = <ArenaBlock*>grown
    buffer.cap = cap
    return JSON_OK


cdef inline int json_room(JsonBuffer* buffer, size_t more) noexcept nogil:
    """Makes room for `more` bytes behind `used`."""
    return JSON_OK if buffer.cap - buffer.used >= more else json_buffer_grow(buffer, more)


# -- scalars

cdef int json_put_text(Span raw, bint escaped, bint base64, JsonSink* sink) noexcept nogil:
    """One string element; base64 text is decoded where it was unescaped to."""
    cdef uint8_t* out
    cdef int64_t size = <int64_t>raw.len
    cdef Span text = raw
    if json_room(&sink.data, raw.len + 8) != JSON_OK or json_room(&sink.sizes, 10) != JSON_OK:
        return JSON_FULL
    out = json_bytes(&sink.data) + sink.data.used
    if escaped:
        text.len = json_unescape(raw, out)
        text.ptr = out
        size = <int64_t>text.len
    if base64:
        size = json_base64(text, out)
        if size < 0:
            return JSON_BAD_BASE64
    elif not escaped:
        memcpy(out, raw.ptr, raw.len)
    sink.data.used += <size_t>size
    out = json_bytes(&sink.sizes) + sink.sizes.used
    sink.sizes.used += wire_put_varint(out, <uint64_t>size) - out
    return JSON_OK


cdef bint json_is_key(Span raw, bint escaped, Span name) noexcept nogil:
    """Whether a raw string means `name`."""
    cdef Arena arena
    cdef Span text
    cdef bint same
    if not escaped:
        return span_equal(raw, name)
    arena_init(&arena)
    same = json_text(raw, True, &arena, &text) == JSON_OK and span_equal(text, name)
    arena_free(&arena)
    return same


cdef bint json_b64_object(JsonReader* reader, Span* raw, bint* escaped) noexcept nogil:
    """Whether the object at the reader is {"b64": "<text>"}: no other member, a string.  Only then the reader moves, behind it."""
    cdef JsonReader at = reader[0]
    at.at += 1
    json_space(&at)
    if json_peek(&at) != 34 or json_string(&at, raw, escaped) != JSON_OK or not json_is_key(raw[0], escaped[0], span_text("b64")):
        return False
    json_space(&at)
    if not json_take(&at, 58):
        return False
    json_space(&at)
    if json_peek(&at) != 34 or json_string(&at, raw, escaped) != JSON_OK:
        return False
    json_space(&at)
    if not json_take(&at, 125):
        return False
    reader[0] = at
    return True


cdef int json_put_string(JsonReader* reader, JsonSink* sink, uint8_t c) noexcept nogil:
    cdef Span raw
    cdef bint escaped
    if c == 123:
        if not json_b64_object(reader, &raw, &escaped):
            return JSON_BAD_OBJECT
        return json_put_text(raw, escaped, True, sink)
    if c != 34:
        return JSON_BAD_TYPE
    if json_string(reader, &raw, &escaped) != JSON_OK:
        return JSON_ODD
    return json_put_text(raw, escaped, False, sink)


cdef int json_put(JsonReader* reader, JsonSink* sink) noexcept nogil:
    """Stores the scalar (or base64 object) at the reader and moves behind it; JSON_OK or why not."""
    cdef uint8_t c = json_peek(reader)
    cdef JsonNumber number
    cdef int rc = JSON_OK
    if sink.kind == JSON_STRINGS:
        rc = json_put_string(reader, sink, c)
    elif c == 123:
        return JSON_BAD_TYPE
    elif sink.kind == JSON_NOTHING:
        return JSON_NO_CONVERSION
    elif c == 34 or c == 110 or ((c == 116 or c == 102) and sink.kind != JSON_BOOLS):
        return JSON_BAD_TYPE
    elif json_room(&sink.data, 8) != JSON_OK:
        return JSON_FULL
    elif c == 116 or c == 102:
        if json_scalar(reader) != JSON_OK:
            return JSON_ODD
        json_bytes(&sink.data)[sink.data.used] = c == 116
        sink.data.used += 1
    else:
        if json_number(reader, &number) != JSON_OK:
            return JSON_ODD
        if not json_store_number(sink.dtype, sink.kind, sink.width, &number, json_bytes(&sink.data) + sink.data.used):
            return JSON_BAD_TYPE
        sink.data.used += sink.width
    sink.values += rc == JSON_OK
    return rc


cdef inline bint json_begins(JsonReader* at, bint single) noexcept nogil:
    """Whether what json_put_numbers takes begins here."""
    if at.at >= at.end:
        return False
    return at.at[0] == 91 if single else json_is_digit(at.at[0]) or at.at[0] == 45


cdef int json_put_numbers(JsonReader* reader, JsonSink* sink, int64_t* count, bint* comma, bint single) noexcept nogil:
    """The hot loop: numbers with commas between them, from the reader's place on, for as long as it goes; `single`: each in a list of its
    own, as in images of one channel.  `comma`: whether it ended behind a comma, so that another value must follow."""
    cdef JsonReader at = reader[0]     # a copy that need not live in memory
    cdef JsonNumber number
    cdef int dtype = sink.dtype
    cdef int kind = sink.kind
    cdef int width = sink.width
    cdef uint8_t* out
    cdef uint8_t* limit
    cdef int64_t done = 0
    comma[0] = True
    if json_room(&sink.data, 8) != JSON_OK:
        return JSON_FULL
    out = json_bytes(&sink.data) + sink.data.used
    limit = json_bytes(&sink.data) + sink.data.cap
    while True:
        if limit - out < 8:
            sink.data.used = out - json_bytes(&sink.data)
            if json_buffer_grow(&sink.data, 8) != JSON_OK:
                return JSON_FULL
            out = json_bytes(&sink.data) + sink.data.used
            limit = json_bytes(&sink.data) + sink.data.cap
        if single:
            at.at += 1
            json_space(&at)
        if json_number(&at, &number) != JSON_OK or not json_store_number(dtype, kind, width, &number, out):
            return JSON_ODD
        out += width
        done += 1
        if single:
            json_space(&at)
            if not json_take(&at, 93):
                return JSON_ODD
        if at.at < at.end and at.at[0] == 44:
            at.at += 1
        else:
            json_space(&at)
            if not json_take(&at, 44):
                comma[0] = False
                break
        if at.at < at.end and at.at[0] == 32:
            at.at += 1
        if not json_begins(&at, single):
            json_space(&at)
            if not json_begins(&at, single):
                break
    sink.data.used = out - json_bytes(&sink.data)
    sink.values += done
    count[0] += done
    reader[0] = at
    return JSON_OK


# -- the walk

cdef struct JsonWalk:              # where it is in the nested lists
    int depth                      # open lists
    int closed                     # dims[closed:] of the sink are known
    int64_t counts[JSON_MAX_RANK]


cdef inline int json_leaf_level(JsonWalk* walk, JsonSink* sink) noexcept nogil:
    """Scalars (or an empty list) stand at this depth: the first time it fixes the rank."""
    if sink.rank < 0:
        sink.rank = walk.depth
        walk.closed = walk.depth
    return JSON_OK if walk.depth == sink.rank else JSON_ODD


cdef int json_close_lists(JsonReader* reader, JsonWalk* walk, JsonSink* sink) noexcept nogil:
    """Behind a value: closes lists until a comma announces the next value or the outermost list is closed."""
    cdef int level
    while walk.depth > 0:
        json_space(reader)
        if json_take(reader, 44):
            return JSON_OK
        if not json_take(reader, 93):
            return JSON_ODD
        level = walk.depth - 1
        if level < walk.closed:
            sink.dims[level] = walk.counts[level]
            walk.closed = level
        elif sink.dims[level] != walk.counts[level]:
            return JSON_ODD
        walk.depth = level
        if level > 0:
            walk.counts[level - 1] += 1
    return JSON_OK


cdef inline bint json_numeric(int kind) noexcept nogil:
    return kind != JSON_STRINGS and kind != JSON_BOOLS and kind != JSON_NOTHING


cdef inline bint json_singles(const JsonWalk* walk, const JsonSink* sink) noexcept nogil:
    """Whether lists of one number each stand at this depth."""
    return 0 < walk.depth == sink.rank - 1 and walk.closed <= walk.depth and sink.dims[walk.depth] == 1


cdef int json_fill(JsonReader* reader, JsonSink* sink) noexcept nogil:
    """Stores the value at the reader and moves behind it.  The first value gives `sink.rank` and `dims`, later ones must have the same.
    JSON_OK, or a JsonFill (then the sink's contents mean nothing)."""
    cdef JsonWalk walk
    cdef bint numeric = json_numeric(sink.kind)
    cdef bint comma, single
    cdef int rc
    walk.depth = 0
    walk.closed = 0
    if sink.rank < 0:
        walk.closed = JSON_MAX_RANK
    while True:
        json_space(reader)
        single = numeric and json_peek(reader) == 91 and json_singles(&walk, sink)
        if json_peek(reader) == 91 and not single:
            if walk.depth == JSON_MAX_RANK:
                return JSON_DEEP
            if walk.depth == sink.rank:
                return JSON_ODD
            reader.at += 1
            walk.counts[walk.depth] = 0
            walk.depth += 1
            json_space(reader)
            if json_peek(reader) != 93:
                continue
            if sink.rank < 0:
                json_leaf_level(&walk, sink)
        else:
            if not single and json_leaf_level(&walk, sink) != JSON_OK:
                return JSON_ODD
            if numeric and walk.depth > 0:
                rc = json_put_numbers(reader, sink, &walk.counts[walk.depth - 1], &comma, single)
                if rc != JSON_OK:
                    return rc
                if comma:
                    continue
            else:
                rc = json_put(reader, sink)
                if rc != JSON_OK:
                    return JSON_FULL if rc == JSON_FULL else JSON_ODD
                if walk.depth > 0:
                    walk.counts[walk.depth - 1] += 1
        rc = json_close_lists(reader, &walk, sink)
        if rc != JSON_OK or walk.depth == 0:
            return rc
