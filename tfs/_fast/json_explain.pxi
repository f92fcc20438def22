# json_explain.pxi: why a value does not become a tensor, in the reference's words.
#
# Owns: the texts of value, shape and row errors, and which of several errors is the one that is told (the first in the order in
# which the reference looks).  Must not know: how values are stored.  Works on valid text, after json_convert gave up on it.
# Strategy: each value is walked twice: along the first elements for its shape, then in full.  The reference sees a list's size
# before its elements, we only after them: so the walk goes on and keeps the error that begins earliest.  Linear in the text.

cdef struct JsonFault:             # the earliest error of one value; `at` NULL = none
    const uint8_t* at
    int kind                       # JsonFill, or one of the two below
    int level
    int64_t got

cdef enum:
    JSON_BAD_SIZE = 200
    JSON_BAD_LIST = 201            # a list where scalars stand
    JSON_BAD_LEVEL = 202           # a scalar where lists stand

cdef struct JsonShape:
    int rank
    int64_t dims[JSON_MAX_RANK]

cdef struct JsonRows:              # what the first row fixed for one input
    bint known
    int64_t values
    JsonShape shape


cdef bint json_shape(JsonReader reader, JsonShape* shape) noexcept nogil:
    """The sizes along the first elements.  False: deeper than a tensor can be.  One walk: the first list that is closed on each
    level lies on that path."""
    cdef int64_t counts[JSON_MAX_RANK]
    cdef int depth = 0, known, level
    shape.rank = 0
    json_space(&reader)
    while json_take(&reader, 91):
        if shape.rank == JSON_MAX_RANK:
            return False
        counts[shape.rank] = 0
        shape.rank += 1
        json_space(&reader)
    known = depth = shape.rank
    if depth > 0 and json_peek(&reader) != 93:
        json_validate(&reader)
        counts[depth - 1] = 1
    while known > 0:
        json_space(&reader)
        if json_take(&reader, 44):
            json_space(&reader)
            json_validate(&reader)
            counts[known - 1] += 1
        else:
            reader.at += 1                             # ]
            known -= 1
            shape.dims[known] = counts[known]
            if known > 0:
                counts[known - 1] += 1
    return True


cdef inline void json_blame(JsonFault* fault, const uint8_t* at, int kind, int level, int64_t got) noexcept nogil:
    if fault.at == NULL or at < fault.at:
        fault.at = at
        fault.kind = kind
        fault.level = level
        fault.got = got


cdef int json_check_scalar(JsonReader* reader, JsonSink* sink) noexcept nogil:
    """json_put into a sink that is emptied again; passes over the value in any case."""
    cdef JsonReader at = reader[0]
    cdef int rc = json_put(&at, sink)
    sink.data.used = sink.sizes.used = 0
    json_validate(reader)
    return rc


cdef int64_t json_check(JsonReader* reader, const JsonShape* shape, JsonSink* sink, JsonFault* fault) noexcept nogil:
    """Walks the value: how many scalars it holds; `fault` gets the earliest error."""
    cdef const uint8_t* opened[JSON_MAX_RANK]
    cdef int64_t counts[JSON_MAX_RANK]
    cdef const uint8_t* start
    cdef int depth = 0, rc
    cdef int64_t values = 0
    while True:
        json_space(reader)
        start = reader.at
        if json_peek(reader) == 91 and depth < shape.rank:
            reader.at += 1
            opened[depth] = start
            counts[depth] = 0
            depth += 1
            json_space(reader)
            if json_peek(reader) != 93:
                continue
        else:
            if json_peek(reader) == 91:
                json_blame(fault, start, JSON_BAD_LIST, depth, 0)
                json_validate(reader)
            elif depth != shape.rank:
                json_blame(fault, start, JSON_BAD_LEVEL, depth, 0)
                json_validate(reader)
            else:
                rc = json_check_scalar(reader, sink)
                if rc != JSON_OK:
                    json_blame(fault, start, rc, depth, 0)
                values += 1
            if depth > 0:
                counts[depth - 1] += 1
        while depth > 0:
            json_space(reader)
            if json_take(reader, 44):
                break
            reader.at += 1                             # ]
            depth -= 1
            if counts[depth] != shape.dims[depth]:
                json_blame(fault, opened[depth], JSON_BAD_SIZE, depth, counts[depth])
            if depth > 0:
                counts[depth - 1] += 1
        if depth == 0:
            return values


# -- texts

cdef void json_say_value(Text* out, const char* before, JsonReader* reader, const JsonFault* fault) noexcept nogil:
    cdef JsonReader value = reader[0]
    value.at = fault.at
    text_str(out, before)
    json_dump(value, out)


cdef const char* json_type_name(const JsonFault* fault) noexcept nogil:
    cdef uint8_t c = fault.at[0]
    if c == 34:
        return "String"
    if c == 123:
        return "Object"
    if c == 91:
        return "Array"
    if c == 110:
        return "Null"
    if c == 116:
        return "True"
    return "False" if c == 102 else "Number"


cdef int json_say_fault(Text* out, JsonReader* reader, const JsonFault* fault, const JsonShape* shape, int dtype) noexcept nogil:
    """Writes the text of one fault; its code."""
    if fault.kind == JSON_BAD_SIZE:
        text_str(out, "Encountered list at unexpected size: ")
        text_int(out, fault.got)
        text_str(out, " at level: ")
        text_int(out, fault.level)
        text_str(out, " expected size: ")
        text_int(out, shape.dims[fault.level])
    elif fault.kind == JSON_BAD_LIST:
        text_str(out, "Encountered list at unexpected level: ")
        text_int(out, fault.level)
        text_str(out, " expected < ")
        text_int(out, shape.rank)
    elif fault.kind == JSON_BAD_LEVEL:
        json_say_value(out, "JSON Value: ", reader, fault)
        text_str(out, " found at incorrect level: ")
        text_int(out, fault.level + 1)
        text_str(out, " in the JSON DOM. Expected at level: ")
        text_int(out, shape.rank)
    elif fault.kind == JSON_BAD_BASE64:
        text_str(out, "Unable to base64 decode")
    elif fault.kind == JSON_BAD_OBJECT:
        json_say_value(out, "JSON Value: ", reader, fault)
        text_str(out, " not formatted correctly for base64 data")
    elif fault.kind == JSON_NO_CONVERSION:
        json_say_value(out, "Conversion of JSON Value: ", reader, fault)
        text_str(out, " to type: ")
        text_str(out, dtype_row(dtype).name)
        return UNIMPLEMENTED
    else:
        json_say_value(out, "JSON Value: ", reader, fault)
        text_str(out, " Type: ")
        text_str(out, json_type_name(fault))
        text_str(out, " is not of expected type: ")
        text_str(out, dtype_row(dtype).name)
    return INVALID_ARGUMENT


cdef void json_say_shape(Text* out, const JsonShape* shape) noexcept nogil:
    cdef int i
    text_str(out, "[")
    for i in range(shape.rank):
        if i > 0:
            text_str(out, ",")
        text_int(out, shape.dims[i])
    text_str(out, "]")


cdef int json_say_no_match(Text* out, const JsonRows* first, const JsonShape* shape, int64_t values) noexcept nogil:
    """This row against the first; OK when they agree."""
    if first.values != values:
        text_str(out, "Expecting tensor size: ")
        text_int(out, first.values)
        text_str(out, " but got: ")
        text_int(out, values)
        return INVALID_ARGUMENT
    if first.shape.rank != shape.rank or memcmp(first.shape.dims, shape.dims, shape.rank * sizeof(int64_t)) != 0:
        text_str(out, "Expecting shape ")
        json_say_shape(out, &first.shape)
        text_str(out, " but got: ")
        json_say_shape(out, shape)
        return INVALID_ARGUMENT
    return OK


cdef int json_too_deep(Call* call, int input) noexcept nogil:
    """What the reference's own tensors refuse; never wrapped, hence the return value JSON_DEEP."""
    status_quote(&call.status, INVALID_ARGUMENT, "tensor parsing error: ", call.plan.inputs[input].alias, "")
    return JSON_DEEP


cdef int json_explain_value(Call* call, JsonReader* reader, int input, JsonRows* first, Text* out) noexcept nogil:
    """The error of one input's value (`first` NULL: a column), written to `out`; OK when there is none.  Moves behind it.
    JSON_DEEP: the call's status is written."""
    cdef JsonShape shape
    cdef JsonSink sink
    cdef JsonFault fault
    cdef JsonReader value = reader[0]
    cdef int64_t values
    cdef int dtype = call.plan.inputs[input].dtype
    if not json_shape(value, &shape):
        return json_too_deep(call, input)
    fault.at = NULL
    json_sink_init(&sink, dtype)
    values = json_check(reader, &shape, &sink, &fault)
    json_sink_free(&sink)
    if fault.at != NULL:
        return json_say_fault(out, &value, &fault, &shape, dtype)
    if first != NULL and first.known:
        return json_say_no_match(out, first, &shape, values)
    if first != NULL:
        first.known = True
        first.values = values
        first.shape = shape
    return OK


# -- rows

cdef void json_say_element(Text* out, int64_t row) noexcept nogil:
    text_str(out, "Failed to process element: ")
    text_int(out, row)


cdef int json_wrap(Call* call, int64_t row, Span name, bint named, int code, Text* inner) noexcept nogil:
    """Writes the status of a row's error; always INVALID_ARGUMENT."""
    cdef Text* out = &call.status.text
    json_fail(call, "")
    json_say_element(out, row)
    if named:
        text_str(out, " key: ")
        text_span(out, name)
    text_str(out, " of 'instances' list. Error: ")
    text_str(out, "UNIMPLEMENTED: " if code == UNIMPLEMENTED else "INVALID_ARGUMENT: ")
    if inner.len:
        text_add(out, inner.ptr, inner.len)
    text_free(inner)
    return INVALID_ARGUMENT


cdef int json_explain_keys(Call* call, JsonReader row, int64_t number) noexcept nogil:
    cdef Text* out = &call.status.text
    cdef int i
    json_fail(call, "")
    json_say_element(out, number)
    text_str(out, " of 'instances' list. JSON object: ")
    json_dump(row, out)
    text_str(out, " keys must be equal to: ")
    for i in range(call.plan.input_count):
        if i > 0:
            text_str(out, ",")
        text_span(out, call.plan.inputs[i].alias)
    return INVALID_ARGUMENT


cdef int json_explain_member(Call* call, JsonReader* reader, int64_t row, JsonRows* firsts, int* input) noexcept nogil:
    """One member of a named row: its error, or OK and the input it sets."""
    cdef Text inner
    cdef Span raw, name
    cdef bint escaped
    cdef int rc
    memset(&inner, 0, sizeof(inner))
    json_next_member(reader, &raw, &escaped)
    if json_text(raw, escaped, &call.arena, &name) != JSON_OK:
        return json_no_memory(call)
    name = json_c_string(name)
    input[0] = json_find_input(call.plan, name, False, 0)
    if input[0] < 0:
        text_str(&inner, "JSON object: does not have named input: ")
        text_span(&inner, name)
        return json_wrap(call, row, name, True, INVALID_ARGUMENT, &inner)
    rc = json_explain_value(call, reader, input[0], &firsts[input[0]], &inner)
    if rc != OK and rc != JSON_DEEP:
        return json_wrap(call, row, name, True, rc, &inner)
    return rc


cdef int json_explain_row(Call* call, JsonReader* reader, int64_t row, JsonRows* firsts, int64_t* stamps) noexcept nogil:
    """One object of `instances`."""
    cdef JsonReader start = reader[0]
    cdef bint more = True
    cdef int input = 0, seen = 0, rc
    reader.at += 1
    json_space(reader)
    if json_take(reader, 125):
        more = False
    while more:
        rc = json_explain_member(call, reader, row, firsts, &input)
        if rc != OK:
            return rc
        seen += stamps[input] != row
        stamps[input] = row
        json_more(reader, 125, &more)
    return OK if seen == call.plan.input_count else json_explain_keys(call, start, row)


cdef int json_explain_item(Call* call, const char* text, int64_t row) noexcept nogil:
    json_fail(call, text)
    text_int(&call.status.text, row)
    text_str(&call.status.text, " of input list")
    return INVALID_ARGUMENT


cdef int json_explain_list(Call* call, JsonReader reader, JsonRows* firsts, int64_t* stamps) noexcept nogil:
    """`instances`, row by row; OK when no error is found."""
    cdef Text inner
    cdef bint more = True
    cdef bint named
    cdef int64_t row = 0
    cdef int rc = OK
    reader.at += 1
    json_space(&reader)
    if json_peek(&reader) != 123 and call.plan.input_count > 1:
        return json_fail(
            call, "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map")
    named = json_is_object(reader)
    while more:
        json_space(&reader)
        if json_is_object(reader) != named:
            return json_explain_item(
                call, "Expecting object but got list at item " if named else "Expecting value/list but got object at item ", row)
        if named:
            rc = json_explain_row(call, &reader, row, firsts, stamps)
        else:
            memset(&inner, 0, sizeof(inner))
            rc = json_explain_value(call, &reader, 0, firsts, &inner)
            if rc != OK and rc != JSON_DEEP:
                rc = json_wrap(call, row, span_text(""), False, rc, &inner)
        if rc != OK:
            return rc
        row += 1
        json_more(&reader, 93, &more)
    return OK


cdef int json_explain_rows(Call* call, JsonReader reader) noexcept nogil:
    cdef int count = call.plan.input_count
    cdef int i, rc
    cdef JsonRows* firsts = <JsonRows*>malloc(count * sizeof(JsonRows))
    cdef int64_t* stamps = <int64_t*>arena_take(&call.arena, count * sizeof(int64_t))
    if firsts == NULL or stamps == NULL:
        free(firsts)
        return json_no_memory(call)
    for i in range(count):
        firsts[i].known = False
        stamps[i] = -1
    rc = json_explain_list(call, reader, firsts, stamps)
    free(firsts)
    return rc


# -- columns

cdef bint json_find_member(JsonReader* reader, Span name) noexcept nogil:
    """Moves from an object to the value of its first member of that name."""
    cdef Span raw
    cdef bint escaped, more = True
    reader.at += 1
    json_space(reader)
    if json_peek(reader) == 125:
        return False
    while more:
        json_next_member(reader, &raw, &escaped)
        if json_is_key(raw, escaped, name):
            return True
        json_validate(reader)
        json_more(reader, 125, &more)
    return False


cdef int json_explain_column(Call* call, JsonReader value, int input) noexcept nogil:
    cdef int rc
    status_clear(&call.status)
    rc = json_explain_value(call, &value, input, NULL, &call.status.text)
    if rc != JSON_DEEP:
        call.status.code = rc
    return rc


cdef int json_explain_columns(Call* call, JsonReader reader) noexcept nogil:
    cdef JsonReader value
    cdef int i, rc
    if not json_is_object(reader):
        if call.plan.input_count > 1:
            return json_fail(
                call, "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map")
        return json_explain_column(call, reader, 0)
    for i in range(call.plan.input_count):
        value = reader
        if not json_find_member(&value, call.plan.inputs[i].alias):
            return status_quote(
                &call.status, INVALID_ARGUMENT, "Missing named input: ", call.plan.inputs[i].alias, " in 'inputs' object.")
        rc = json_explain_column(call, value, i)
        if rc != OK:
            return rc
    return OK


cdef int json_explain(Call* call, JsonReader value, int why) noexcept nogil:
    """The error of `instances` or `inputs` that json_convert met with `why`; always a code with the status written."""
    cdef int rc = json_explain_rows(call, value) if call.json_format == JSON_ROWS else json_explain_columns(call, value)
    if rc == OK and why == JSON_DEEP:
        json_too_deep(call, 0)                         # by the rows' own dimension
    elif rc == OK:
        status_set(&call.status, INTERNAL, "The JSON body was refused for no known reason")
    return call.status.code
