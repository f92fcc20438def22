# json_decode.pxi: a REST predict body -> the call's inputs.
#
# Owns: the keys of the body, the row and column formats, and the order of the checks.
# Must not know: numbers and strings (json_fill.pxi), the wording of value errors (json_explain.pxi), how a model is found.
# Strategy: json_quick reads the body once, converting as it goes, and gives up at anything unusual; json_careful then does it in the
# reference's order: whole document, signature name, servable, format, values.  Both share json_convert.  On success every input is a
# TensorSpan in tensor_content form whose bytes the call's arena owns.

cdef enum:                         # JsonFormat: Call.json_format
    JSON_ROWS = 1                  # "instances" -> "predictions"
    JSON_COLUMNS = 2               # "inputs" -> "outputs"

cdef struct JsonBody:              # the members of the document that matter; `at` NULL = absent
    JsonReader root
    JsonReader signature
    JsonReader instances
    JsonReader inputs


cdef int json_fail(Call* call, const char* message) noexcept nogil:
    return status_set(&call.status, INVALID_ARGUMENT, message)


cdef int json_fail_dump(Call* call, JsonReader value, const char* message) noexcept nogil:
    """`JSON Value: <dump>` + message."""
    status_set(&call.status, INVALID_ARGUMENT, "JSON Value: ")
    json_dump(value, &call.status.text)
    text_str(&call.status.text, message)
    return INVALID_ARGUMENT


cdef int json_no_memory(Call* call) noexcept nogil:
    return status_set(&call.status, RESOURCE_EXHAUSTED, "Out of memory while reading the JSON body")


# -- from filled buffers to TensorSpans

cdef Span json_content(JsonSink* sink, int64_t elements, Arena* arena) noexcept nogil:
    """The first `elements` values in tensor_content form; the blocks go to the arena.  ptr NULL with elements > 0: no memory."""
    cdef Span content
    cdef Cursor cursor
    cdef Span sizes
    cdef uint64_t size = 0
    cdef size_t total = 0
    cdef int64_t i
    content.ptr = NULL
    content.len = 0
    if elements == 0:
        return content
    if sink.kind != JSON_STRINGS:
        content.ptr = json_bytes(&sink.data)
        content.len = <size_t>(elements * sink.width)
    else:
        sizes.ptr = json_bytes(&sink.sizes)
        sizes.len = sink.sizes.used
        cursor = wire_cursor(sizes)
        for i in range(elements):
            wire_varint(&cursor, &size)
            total += size
        sizes.len = cursor.at - sizes.ptr
        sink.sizes.used = sizes.len
        if json_room(&sink.sizes, total + 1) != JSON_OK:
            return content
        content.ptr = json_bytes(&sink.sizes)
        content.len = sizes.len + total
        memcpy(json_bytes(&sink.sizes) + sizes.len, json_bytes(&sink.data), total)
        json_keep(&sink.sizes, arena)
        return content
    json_keep(&sink.data, arena)
    return content


cdef void json_keep(JsonBuffer* buffer, Arena* arena) noexcept nogil:
    """Hands the buffer's block to the arena."""
    buffer.block.next = arena.blocks
    arena.blocks = buffer.block
    buffer.block = NULL


cdef int json_finish(Call* call, JsonSink* sink, int64_t rows, Span alias, TensorSpan* out) noexcept nogil:
    """Describes a filled sink as the input `alias`.  `rows` >= 0: each value was one row, the tensor gets that dimension in front."""
    cdef int extra = rows >= 0
    cdef int i
    memset(out, 0, sizeof(TensorSpan))
    out.alias = alias
    out.dtype = sink.dtype
    out.rank = sink.rank + extra
    if out.rank > TENSOR_MAX_RANK:
        return status_quote(&call.status, INVALID_ARGUMENT, "tensor parsing error: ", alias, "")
    out.dims = <int64_t*>arena_take(&call.arena, (out.rank + 1) * sizeof(int64_t))
    if out.dims == NULL:
        return json_no_memory(call)
    if extra:
        out.dims[0] = rows
    memcpy(out.dims + extra, sink.dims, sink.rank * sizeof(int64_t))
    out.elements = 1
    for i in range(out.rank):
        out.elements *= out.dims[i]                    # the product of counts of values that are there: no overflow
    out.rows = out.dims[0] if out.rank > 0 else -1
    out.content = json_content(sink, out.elements, &call.arena)
    if out.elements > 0 and out.content.ptr == NULL:
        return json_no_memory(call)
    return OK


# -- the formats.  The readers stand at a value; JSON_ODD leaves it to json_explain.pxi.

cdef int json_convert_single(Call* call, JsonReader* reader) noexcept nogil:
    """The whole value is the first (mostly the only) input: a column, or rows that are no objects."""
    cdef JsonSink sink
    cdef int rc
    json_sink_init(&sink, call.plan.inputs[0].dtype)
    rc = json_fill(reader, &sink)
    if rc == JSON_OK:
        rc = json_finish(call, &sink, -1, call.plan.inputs[0].alias, &call.inputs[0])
        call.input_count = 1
    json_sink_free(&sink)
    return rc


cdef int json_find_input(const Plan* plan, Span raw, bint escaped, int guess) noexcept nogil:
    """Index of the input a name means, or -1; tries `guess` first, since rows tend to name them in one order."""
    cdef int i
    if guess < plan.input_count and not escaped and span_equal(raw, plan.inputs[guess].alias):
        return guess
    for i in range(plan.input_count):
        if json_is_key(raw, escaped, plan.inputs[i].alias):
            return i
    return -1


cdef Span json_c_string(Span text) noexcept nogil:
    """Names in rows are C strings to the reference: they end at a NUL."""
    cdef const void* end = memchr(text.ptr, 0, text.len)
    if end != NULL:
        text.len = <const uint8_t*>end - text.ptr
    return text


cdef int json_find_row_input(const Plan* plan, Span raw, bint escaped, int guess) noexcept nogil:
    """json_find_input for the names in a row."""
    cdef Arena arena
    cdef Span text
    cdef int found = -1
    if not escaped:
        return json_find_input(plan, raw, False, guess)
    arena_init(&arena)
    if json_text(raw, True, &arena, &text) == JSON_OK:
        found = json_find_input(plan, json_c_string(text), False, guess)
    arena_free(&arena)
    return found


cdef int json_next_member(JsonReader* reader, Span* raw, bint* escaped) noexcept nogil:
    """The name of the next member, with the reader moved to its value."""
    json_space(reader)
    if json_peek(reader) != 34 or json_string(reader, raw, escaped) != JSON_OK:
        return JSON_ODD
    json_space(reader)
    if not json_take(reader, 58):
        return JSON_ODD
    json_space(reader)
    return JSON_OK


cdef int json_more(JsonReader* reader, uint8_t closing, bint* more) noexcept nogil:
    """Behind a member or element: `more` follow, or the bracket was closed."""
    json_space(reader)
    more[0] = json_take(reader, 44)
    return JSON_OK if more[0] or json_take(reader, closing) else JSON_ODD


cdef int json_convert_row(const Plan* plan, JsonReader* reader, JsonSink* sinks, int64_t row, int* order) noexcept nogil:
    """One object of `instances`: each member into its input's sink.  `order`: which input the n-th member of the last row was."""
    cdef Span raw
    cdef bint escaped, more = True
    cdef int input, seen = 0, n = 0, rc
    if not json_take(reader, 123):
        return JSON_ODD
    while more:
        if json_next_member(reader, &raw, &escaped) != JSON_OK:
            return JSON_ODD
        input = json_find_row_input(plan, raw, escaped, order[n] if n < plan.input_count else 0)
        if input < 0:
            return JSON_ODD
        if n < plan.input_count:
            order[n] = input
        n += 1
        rc = json_fill(reader, &sinks[input])
        if rc != JSON_OK:
            return rc
        seen += sinks[input].stamp != row
        sinks[input].stamp = row
        if json_more(reader, 125, &more) != JSON_OK:
            return JSON_ODD
    return JSON_OK if seen == plan.input_count else JSON_ODD


cdef int json_convert_named(Call* call, JsonReader* reader, JsonSink* sinks) noexcept nogil:
    """`instances` as a list of objects."""
    cdef Plan* plan = call.plan
    cdef int64_t rows = 0
    cdef bint more = True
    cdef int i, rc
    cdef int* order = <int*>arena_take(&call.arena, plan.input_count * sizeof(int))
    if order == NULL:
        return JSON_FULL
    memset(order, 0, plan.input_count * sizeof(int))
    reader.at += 1
    while more:
        json_space(reader)
        rc = json_convert_row(plan, reader, sinks, rows, order)
        if rc != JSON_OK:
            return rc
        rows += 1
        if json_more(reader, 93, &more) != JSON_OK:
            return JSON_ODD
    for i in range(plan.input_count):
        rc = json_finish(call, &sinks[i], rows, plan.inputs[i].alias, &call.inputs[i])
        if rc != OK:
            return rc
    call.input_count = plan.input_count
    return OK


cdef int json_convert_columns(Call* call, JsonReader* reader, JsonSink* sinks) noexcept nogil:
    """`inputs` as an object: the first member of each alias counts, others are passed over."""
    cdef Plan* plan = call.plan
    cdef Span raw
    cdef bint escaped, more = True
    cdef int input, rc
    cdef int found = 0
    reader.at += 1
    while more:
        if json_next_member(reader, &raw, &escaped) != JSON_OK:
            return JSON_ODD
        input = json_find_input(plan, raw, escaped, found)
        if input >= 0 and sinks[input].stamp < 0:
            rc = json_fill(reader, &sinks[input])
            if rc != JSON_OK:
                return rc
            sinks[input].stamp = 0
            found += 1
        elif json_validate(reader) != JSON_OK:
            return JSON_ODD
        if json_more(reader, 125, &more) != JSON_OK:
            return JSON_ODD
    if found < plan.input_count:
        return JSON_ODD
    for input in range(plan.input_count):
        rc = json_finish(call, &sinks[input], -1, plan.inputs[input].alias, &call.inputs[input])
        if rc != OK:
            return rc
    call.input_count = plan.input_count
    return OK


cdef bint json_is_object(JsonReader reader) noexcept nogil:
    """An object that is not a base64 string."""
    cdef Span raw
    cdef bint escaped
    return json_peek(&reader) == 123 and not json_b64_object(&reader, &raw, &escaped)


cdef int json_convert_members(Call* call, JsonReader* reader) noexcept nogil:
    cdef int count = call.plan.input_count
    cdef int i, rc
    cdef JsonSink* sinks = <JsonSink*>malloc(count * sizeof(JsonSink))
    if sinks == NULL:
        return JSON_FULL
    for i in range(count):
        json_sink_init(&sinks[i], call.plan.inputs[i].dtype)
    rc = json_convert_named(call, reader, sinks) if call.json_format == JSON_ROWS else json_convert_columns(call, reader, sinks)
    for i in range(count):
        json_sink_free(&sinks[i])
    free(sinks)
    return rc


cdef int json_convert(Call* call, JsonReader* reader) noexcept nogil:
    """The value of `instances` or `inputs` (call.json_format) into call.inputs; moves behind it.  OK, a code with the status written,
    or a JsonFill."""
    cdef JsonReader first = reader[0]
    cdef bint listed = json_peek(reader) == 91
    if call.json_format == JSON_ROWS:
        if not listed:
            return JSON_ODD
        first.at += 1
        json_space(&first)
        if json_peek(&first) == 93 or (json_peek(&first) != 123 and call.plan.input_count > 1):
            return JSON_ODD
    call.inputs = <TensorSpan*>arena_take(&call.arena, call.plan.input_count * sizeof(TensorSpan))
    if call.inputs == NULL:
        return JSON_FULL
    call.input_count = 0
    if json_is_object(first):
        return json_convert_members(call, reader)
    if call.json_format == JSON_COLUMNS and call.plan.input_count > 1:
        return JSON_ODD
    return json_convert_single(call, reader)


# -- the two ways through a body

cdef bint json_quick(Call* call) noexcept nogil:
    """The plain body: `signature_name`, `instances` or `inputs` once each, no other key, all well.  False: nothing is decided."""
    cdef JsonReader reader = json_open(call.body)
    cdef Span raw, signature
    cdef bint escaped, more = True, named = False, converted = False
    cdef int format
    signature.ptr = call.body.ptr
    signature.len = 0
    json_space(&reader)
    if not json_take(&reader, 123):
        return False
    while more:
        if json_next_member(&reader, &raw, &escaped) != JSON_OK or escaped:
            return False
        if span_equal(raw, span_text("signature_name")):
            if named or json_peek(&reader) != 34 or json_string(&reader, &signature, &escaped) != JSON_OK or escaped:
                return False
            named = True
            if converted and plan_find(call.servable, signature) != call.plan:
                return False
        else:
            format = JSON_ROWS if span_equal(raw, span_text("instances")) else JSON_COLUMNS
            if converted or (format == JSON_COLUMNS and not span_equal(raw, span_text("inputs"))):
                return False
            call.json_format = format
            call.signature = signature
            if json_resolve(call) != OK or call.plan.input_count == 0 or json_convert(call, &reader) != OK:
                return False
            converted = True
        if json_more(&reader, 125, &more) != JSON_OK:
            return False
    call.signature = signature
    return converted


cdef bint json_collect(JsonBody* body) noexcept nogil:
    """Notes the first member of each name that matters.  The document is valid and an object."""
    cdef JsonReader reader = body.root
    cdef JsonReader* slot
    cdef Span raw
    cdef bint escaped, more = True
    reader.at += 1
    json_space(&reader)
    if json_take(&reader, 125):
        return True
    while more:
        json_next_member(&reader, &raw, &escaped)
        slot = NULL
        if json_is_key(raw, escaped, span_text("signature_name")):
            slot = &body.signature
        elif json_is_key(raw, escaped, span_text("instances")):
            slot = &body.instances
        elif json_is_key(raw, escaped, span_text("inputs")):
            slot = &body.inputs
        if slot != NULL and slot.at == NULL:
            slot[0] = reader
        if json_validate(&reader) != JSON_OK:
            return False                               # only for want of memory
        json_more(&reader, 125, &more)
    return True


cdef int json_parse_error(Call* call, int error, JsonReader* reader) noexcept nogil:
    if error == JSON_NO_MEMORY:
        return json_no_memory(call)
    json_fail(call, "JSON Parse error: ")
    text_str(&call.status.text, json_error_texts[error])
    text_str(&call.status.text, " at offset: ")
    text_int(&call.status.text, reader.at - reader.begin)
    return INVALID_ARGUMENT


cdef int json_parse(Call* call, JsonBody* body) noexcept nogil:
    """The whole document, as far as a first value goes, and its members."""
    cdef JsonReader reader = json_open(call.body)
    cdef int rc
    memset(body, 0, sizeof(JsonBody))
    if call.body.len == 0:
        return json_fail(call, "JSON Parse error: The document is empty")
    rc = json_validate(&reader)
    if rc != JSON_OK:
        return json_parse_error(call, rc, &reader)
    body.root = json_open(call.body)
    json_space(&body.root)
    if json_peek(&body.root) != 123:
        return json_fail_dump(call, body.root, " Is not object")
    return OK if json_collect(body) else json_no_memory(call)


cdef int json_signature(Call* call, JsonBody* body) noexcept nogil:
    cdef Span raw
    cdef bint escaped
    call.signature.ptr = call.body.ptr
    call.signature.len = 0
    if body.signature.at == NULL:
        return OK
    if json_peek(&body.signature) != 34:
        return json_fail_dump(call, body.root, " not formatted correctly. 'signature_name' key must be a string value.")
    json_string(&body.signature, &raw, &escaped)
    return OK if json_text(raw, escaped, &call.arena, &call.signature) == JSON_OK else json_no_memory(call)


cdef int json_resolve(Call* call) noexcept nogil:
    """The servable (held once, though this may be called again) and the plan of the signature."""
    cdef int rc
    if call.servable == NULL:
        rc = map_resolve(call)
        if rc != OK:
            return rc
    call.plan = plan_find(call.servable, call.signature)
    if call.plan == NULL:
        return status_quote(
            &call.status, INVALID_ARGUMENT, "Serving signature name: \"",
            call.signature if call.signature.len else span_text("serving_default"), "\" not found in signature def")
    return OK


cdef int json_pick_format(Call* call, JsonBody* body, JsonReader* value) noexcept nogil:
    cdef JsonReader first
    if body.instances.at != NULL and body.inputs.at != NULL:
        return json_fail_dump(call, body.root, " Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ")
    if body.inputs.at != NULL:
        call.json_format = JSON_COLUMNS
        value[0] = body.inputs
        return OK
    if body.instances.at == NULL:
        return json_fail(call, "Missing 'inputs' or 'instances' key")
    call.json_format = JSON_ROWS
    value[0] = first = body.instances
    if not json_take(&first, 91):
        return json_fail_dump(call, body.root, " Expecting 'instances' to be an list/array")
    json_space(&first)
    if json_peek(&first) == 93:
        return json_fail_dump(call, body.root, " No values in 'instances' array")
    return OK


cdef int json_careful(Call* call) noexcept nogil:
    cdef JsonBody body
    cdef JsonReader value
    cdef int rc
    rc = json_parse(call, &body)
    if rc == OK:
        rc = json_signature(call, &body)
    if rc == OK:
        rc = json_resolve(call)
    if rc != OK:
        return rc
    if call.plan.input_count == 0:
        return status_quote(
            &call.status, INVALID_ARGUMENT, "Failed to get input map for signature: ",
            call.signature if call.signature.len else span_text("DEFAULT"), "")
    rc = json_pick_format(call, &body, &value)
    if rc != OK:
        return rc
    rc = json_convert(call, &value)
    if rc == JSON_FULL:
        return json_no_memory(call)
    if rc != JSON_ODD and rc != JSON_DEEP:
        return rc
    return json_explain(call, body.inputs if call.json_format == JSON_COLUMNS else body.instances, rc)


cdef int json_decode(Call* call) noexcept nogil:
    """call.body -> signature, servable and plan (through json_resolve), inputs, json_format.  OK, or a code with the status written."""
    call.payload_bytes = <int64_t>call.body.len
    if json_quick(call):
        return OK
    status_clear(&call.status)
    return json_careful(call)
