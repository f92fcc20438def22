# json_dump.pxi: `<dump>`: a value as the error texts of the reference show it.
#
# Owns: that layout (objects on several lines, arrays on one, four spaces per level), its number format and the 256-byte cut.
# Must not know: why a text is written.  Works on text that json_validate has passed.
# Strategy: one loop over the tokens; before each, what belongs in front of it.  The cut bounds the depth that is ever kept.

cdef enum:
    JSON_DUMP_LIMIT = 256          # no token is begun beyond so many bytes

cdef struct JsonDump:
    Text* out
    size_t begin
    int depth
    int in_array[JSON_DUMP_LIMIT + 1]      # each level took at least one byte
    int64_t count[JSON_DUMP_LIMIT + 1]     # values so far; names count in objects


cdef void json_add_escaped(Text* out, Span text) noexcept nogil:
    """`text` between quotes, escaped as the reference does: quotes, backslashes and control characters only."""
    cdef char code[8]
    cdef const uint8_t* at = text.ptr
    cdef const uint8_t* end = text.ptr + text.len
    cdef const uint8_t* plain
    text_str(out, '"')
    while at < end:
        plain = at
        at = json_plain(at, end)
        text_add(out, <const char*>plain, at - plain)
        if at < end:
            text_add(out, code, json_escape_byte(at[0], code))
            at += 1
    text_str(out, '"')


cdef int json_escape_byte(uint8_t c, char* out) noexcept nogil:
    """The escape of one byte (quote, backslash, control); its length, at most six."""
    out[0] = 92
    out[1] = <char>c
    if c == 8:
        out[1] = 98
    elif c == 12:
        out[1] = 102
    elif c == 10:
        out[1] = 110
    elif c == 13:
        out[1] = 114
    elif c == 9:
        out[1] = 116
    elif c != 34 and c != 92:
        return snprintf(out, 8, "\\u%04X", c)
    return 2


cdef void json_dump_double(Text* out, double value) noexcept nogil:
    """The digits with a plain point for exponents -6 < n <= 21, else d.ddde<n>."""
    cdef char digits[24]
    cdef int count = 1, power = 0, point, i
    digits[0] = 48
    if signbit(value):
        text_str(out, "-")
        value = -value
    if value > 0:
        count = json_grisu(value, digits, &power)
    point = count + power                              # digits before the point
    if 0 < point <= 21:
        text_add(out, digits, count if count < point else point)
        for i in range(point - count):
            text_str(out, "0")
        text_str(out, ".")
        if count > point:
            text_add(out, digits + point, count - point)
        else:
            text_str(out, "0")
    elif -6 < point <= 0:
        text_str(out, "0.")
        for i in range(-point):
            text_str(out, "0")
        text_add(out, digits, count)
    else:
        text_add(out, digits, 1)
        if count > 1:
            text_str(out, ".")
            text_add(out, digits + 1, count - 1)
        text_str(out, "e")
        text_int(out, point - 1)


cdef bint json_dump_number(JsonReader* reader, Text* out) noexcept nogil:
    """False for NaN and the infinities, which end the dump."""
    cdef JsonNumber number
    cdef char text[24]
    cdef const uint8_t* start = reader.at
    json_number(reader, &number)
    if number.kind == JSON_DOUBLE:
        if json_is_digit(start[start[0] == 45]):       # not NaN and its kin
            number.value = json_fast_double(start, reader.at)
        if number.value != number.value or number.value - number.value != 0:
            return False
        json_dump_double(out, number.value)
    elif number.kind == JSON_SIGNED:
        text_int(out, <int64_t>number.bits)
    else:
        text_add(out, text, snprintf(text, sizeof(text), "%llu", <unsigned long long>number.bits))
    return True


cdef void json_dump_string(JsonReader* reader, Text* out) noexcept nogil:
    cdef Span raw
    cdef Span text
    cdef bint escaped
    cdef Arena arena
    arena_init(&arena)
    json_string(reader, &raw, &escaped)
    if json_text(raw, escaped, &arena, &text) == JSON_OK:
        json_add_escaped(out, text)
    arena_free(&arena)


cdef void json_dump_line(JsonDump* dump) noexcept nogil:
    cdef int i
    text_str(dump.out, "\n")
    for i in range(dump.depth):
        text_str(dump.out, "    ")


cdef void json_dump_before(JsonDump* dump) noexcept nogil:
    """What stands between this token and the one before."""
    cdef int64_t count
    if dump.depth == 0:
        return
    count = dump.count[dump.depth - 1]
    if dump.in_array[dump.depth - 1]:
        if count > 0:
            text_str(dump.out, ", ")
    elif count & 1:
        text_str(dump.out, ": ")
    else:
        if count > 0:
            text_str(dump.out, ",")
        json_dump_line(dump)
    dump.count[dump.depth - 1] = count + 1


cdef bint json_dump_token(JsonDump* dump, JsonReader* reader) noexcept nogil:
    """One token; False when the dump must end."""
    cdef uint8_t c = json_peek(reader)
    cdef const uint8_t* start = reader.at
    if c == 93 or c == 125:
        reader.at += 1
        dump.depth -= 1
        if c == 125 and dump.count[dump.depth] > 0:
            json_dump_line(dump)
        text_add(dump.out, <const char*>&c, 1)
        return True
    json_dump_before(dump)
    if c == 91 or c == 123:
        reader.at += 1
        text_add(dump.out, <const char*>&c, 1)
        dump.in_array[dump.depth] = c == 91
        dump.count[dump.depth] = 0
        dump.depth += 1
        return True
    if c == 34:
        json_dump_string(reader, dump.out)
        return True
    if c == 116 or c == 102 or c == 110:
        json_scalar(reader)
        text_add(dump.out, <const char*>start, reader.at - start)
        return True
    return json_dump_number(reader, dump.out)


cdef void json_dump(JsonReader reader, Text* out) noexcept nogil:
    """Appends the value at the reader's place."""
    cdef JsonDump dump
    dump.out = out
    dump.begin = out.len
    dump.depth = 0
    while out.len - dump.begin < JSON_DUMP_LIMIT:
        json_space(&reader)
        while json_take(&reader, 44) or json_take(&reader, 58):
            json_space(&reader)
        if not json_dump_token(&dump, &reader) or dump.depth == 0:
            return
