# json_scan.pxi: the grammar of JSON text: the validator, strings, base64, and moving over text that is already valid.
#
# Owns: which bytes are a document, with the reference's (RapidJSON 1.1.0, iterative) error texts and offsets.
# Must not know: what a key means, dtypes, tickets.
# Strategy: the validator keeps one bit per open bracket (object or array) and a small state, so depth costs an eighth of a byte
# per byte seen and no C stack.  A NUL where a token should start ends the text, as it does for the reference.

cdef extern from * nogil:
    """
    static const char* const tfs_json_errors[] = {     /* indexed by JsonError */
        "",
        "The document is empty.",
        "Invalid value.",
        "Missing a name for object member.",
        "Missing a colon after a name of object member.",
        "Missing a comma or '}' after an object member.",
        "Missing a comma or ']' after an array element.",
        "Incorrect hex digit after \\\\u escape in string.",
        "The surrogate pair in string is invalid.",
        "Invalid escape character in string.",
        "Missing a closing quotation mark in string.",
        "Number too big to be stored in double.",
        "Miss fraction part in number.",
        "Miss exponent in number.",
        "Out of memory.",
    };
    """
    const char** json_error_texts "tfs_json_errors"

cdef uint8_t json_escapes[256]     # the byte after a backslash -> the byte it means; 0 = none (u is handled apart)
cdef int8_t json_hex[256]          # -1: not a hex digit
cdef int8_t json_sextets[256]      # base64: 0..63, or one of the three below

cdef enum:
    JSON_B64_SPACE = -1
    JSON_B64_PAD = -2
    JSON_B64_BAD = -3


cdef int json_fill_bytes() except -1:
    cdef int byte
    for byte in range(256):
        json_escapes[byte] = 0
        json_hex[byte] = -1
        json_sextets[byte] = JSON_B64_BAD
    for letter, means in zip(bytearray(b'"\\/bfnrt'), bytearray(b'"\\/\b\f\n\r\t')):
        json_escapes[<int>letter] = means
    for value, letter in enumerate(bytearray(b"0123456789abcdef")):
        json_hex[<int>letter] = value
    for value, letter in enumerate(bytearray(b"ABCDEF")):
        json_hex[<int>letter] = 10 + value
    for value, letter in enumerate(bytearray(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")):
        json_sextets[<int>letter] = value
    for letter in bytearray(b" \t\n\v\f\r"):
        json_sextets[<int>letter] = JSON_B64_SPACE
    for letter in bytearray(b"=."):
        json_sextets[<int>letter] = JSON_B64_PAD
    return 0


json_fill_bytes()


cdef inline void json_space(JsonReader* reader) noexcept nogil:
    while reader.at < reader.end and (
        reader.at[0] == 32 or reader.at[0] == 10 or reader.at[0] == 13 or reader.at[0] == 9
    ):
        reader.at += 1


cdef inline uint8_t json_peek(JsonReader* reader) noexcept nogil:
    """The next byte; 0 at the end, which no token starts with either."""
    return reader.at[0] if reader.at < reader.end else 0


cdef inline JsonReader json_open(Span body) noexcept nogil:
    """A reader behind the byte order mark, of which the reference skips any of the three bytes that is there."""
    cdef JsonReader reader
    reader.begin = body.ptr
    reader.at = body.ptr
    reader.end = body.ptr + body.len
    json_take(&reader, 0xEF)
    json_take(&reader, 0xBB)
    json_take(&reader, 0xBF)
    return reader


# -- strings

cdef inline const uint8_t* json_plain(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """The first byte that is a quote, a backslash or a control character, eight at a time."""
    cdef uint64_t chunk, quote, slash
    while end - at >= 8:
        memcpy(&chunk, at, 8)
        quote = chunk ^ 0x2222222222222222ULL
        slash = chunk ^ 0x5C5C5C5C5C5C5C5CULL
        if (
            ((quote - 0x0101010101010101ULL) & ~quote)
            | ((slash - 0x0101010101010101ULL) & ~slash)
            | ((chunk - 0x2020202020202020ULL) & ~chunk)
        ) & 0x8080808080808080ULL:
            break
        at += 8
    while at < end and at[0] != 34 and at[0] != 92 and at[0] >= 32:
        at += 1
    return at


cdef int json_hex4(JsonReader* reader, uint32_t* code) noexcept nogil:
    cdef int i
    code[0] = 0
    for i in range(4):
        if reader.at >= reader.end or json_hex[reader.at[0]] < 0:
            return JSON_BAD_HEX
        code[0] = code[0] << 4 | <uint32_t>json_hex[reader.at[0]]
        reader.at += 1
    return JSON_OK


cdef int json_escape(JsonReader* reader, uint32_t* code) noexcept nogil:
    """Behind a backslash: the code point that is meant.  A lone low surrogate passes, a lone high one does not."""
    cdef uint32_t low = 0
    cdef int rc
    cdef uint8_t simple = json_escapes[json_peek(reader)]
    if simple:
        code[0] = simple
        reader.at += 1
        return JSON_OK
    if not json_take(reader, 117):
        return JSON_BAD_ESCAPE
    rc = json_hex4(reader, code)
    if rc != JSON_OK or code[0] < 0xD800 or code[0] > 0xDBFF:
        return rc
    if not json_take(reader, 92) or not json_take(reader, 117):
        return JSON_BAD_SURROGATE
    rc = json_hex4(reader, &low)
    if rc != JSON_OK:
        return rc
    if low < 0xDC00 or low > 0xDFFF:
        return JSON_BAD_SURROGATE
    code[0] = ((code[0] - 0xD800) << 10 | (low - 0xDC00)) + 0x10000
    return JSON_OK


cdef int json_string(JsonReader* reader, Span* raw, bint* escaped) noexcept nogil:
    """The string whose quote is at `reader.at`: the bytes between the quotes, and whether they hold escapes."""
    cdef const uint8_t* slash
    cdef uint32_t code
    cdef int rc
    reader.at += 1
    raw.ptr = reader.at
    escaped[0] = False
    while True:
        reader.at = json_plain(reader.at, reader.end)
        if reader.at >= reader.end or reader.at[0] == 0:
            return JSON_MISS_QUOTE
        if reader.at[0] == 34:
            raw.len = reader.at - raw.ptr
            reader.at += 1
            return JSON_OK
        if reader.at[0] != 92:
            return JSON_BAD_ESCAPE                     # a raw control character
        escaped[0] = True
        slash = reader.at
        reader.at += 1
        rc = json_escape(reader, &code)
        if rc != JSON_OK:
            reader.at = slash
            return rc


cdef inline uint8_t* json_put_code(uint8_t* out, uint32_t code) noexcept nogil:
    """UTF-8, lone surrogates in three bytes."""
    if code < 0x80:
        out[0] = <uint8_t>code
        return out + 1
    if code < 0x800:
        out[0] = <uint8_t>(0xC0 | code >> 6)
    elif code < 0x10000:
        out[0] = <uint8_t>(0xE0 | code >> 12)
        out[1] = <uint8_t>(0x80 | code >> 6 & 63)
        out += 1
    else:
        out[0] = <uint8_t>(0xF0 | code >> 18)
        out[1] = <uint8_t>(0x80 | code >> 12 & 63)
        out[2] = <uint8_t>(0x80 | code >> 6 & 63)
        out += 2
    out[1] = <uint8_t>(0x80 | code & 63)
    return out + 2


cdef size_t json_unescape(Span raw, uint8_t* out) noexcept nogil:
    """Writes the bytes a valid raw string means: never more than `raw.len`.  Returns how many."""
    cdef JsonReader reader
    cdef const uint8_t* plain
    cdef uint8_t* start = out
    cdef uint32_t code
    reader.begin = reader.at = raw.ptr
    reader.end = raw.ptr + raw.len
    while reader.at < reader.end:
        plain = reader.at
        reader.at = json_plain(plain, reader.end)
        memcpy(out, plain, reader.at - plain)
        out += reader.at - plain
        if reader.at < reader.end:
            reader.at += 1
            json_escape(&reader, &code)
            out = json_put_code(out, code)
    return out - start


cdef int json_text(Span raw, bint escaped, Arena* arena, Span* text) noexcept nogil:
    """The bytes a valid raw string means: the body's own, or unescaped into the arena."""
    cdef uint8_t* out
    text[0] = raw
    if not escaped:
        return JSON_OK
    out = <uint8_t*>arena_take(arena, raw.len)
    if out == NULL:
        return JSON_NO_MEMORY
    text.len = json_unescape(raw, out)
    text.ptr = out
    return JSON_OK


cdef int64_t json_base64(Span text, uint8_t* out) noexcept nogil:
    """Decodes standard base64 into `out` (room for text.len bytes; may be where the text is); bytes written, -1 = not base64.  White space
    is skipped; padding may be left out, but what is there must be right."""
    cdef uint8_t* start = out
    cdef uint32_t bits = 0
    cdef int count = 0, pads = 0
    cdef size_t i
    cdef int8_t sextet
    for i in range(text.len):
        sextet = json_sextets[text.ptr[i]]
        if sextet >= 0 and pads == 0:
            bits = bits << 6 | <uint32_t>sextet
            count += 1
            if count == 4:
                out[0] = <uint8_t>(bits >> 16)
                out[1] = <uint8_t>(bits >> 8)
                out[2] = <uint8_t>bits
                out += 3
                count = 0
                bits = 0
        elif sextet == JSON_B64_PAD:
            pads = pads + 1 if pads < 3 else 3
        elif sextet != JSON_B64_SPACE:
            return -1
    if count == 1 or (pads != 0 and (count == 0 or pads != 4 - count)):
        return -1
    if count == 2:
        out[0] = <uint8_t>(bits >> 4)
        out += 1
    elif count == 3:
        out[0] = <uint8_t>(bits >> 10)
        out[1] = <uint8_t>(bits >> 2)
        out += 2
    return out - start


# -- the validator

cdef struct JsonNesting:           # one bit per open bracket: 1 = object
    uint8_t* bits
    size_t depth
    size_t cap                     # in bits


cdef int json_nest(JsonNesting* nesting, bint is_object) noexcept nogil:
    cdef uint8_t* grown
    if nesting.depth == nesting.cap:
        grown = <uint8_t*>realloc(nesting.bits, nesting.cap // 4 + 32)
        if grown == NULL:
            return JSON_NO_MEMORY
        nesting.bits = grown
        nesting.cap = (nesting.cap // 4 + 32) * 8
    if is_object:
        nesting.bits[nesting.depth >> 3] |= 1 << (nesting.depth & 7)
    else:
        nesting.bits[nesting.depth >> 3] &= ~(1 << (nesting.depth & 7))
    nesting.depth += 1
    return JSON_OK


cdef inline bint json_in_object(JsonNesting* nesting) noexcept nogil:
    return nesting.bits[(nesting.depth - 1) >> 3] >> ((nesting.depth - 1) & 7) & 1


cdef int json_scalar(JsonReader* reader) noexcept nogil:
    """Passes over a string, number or literal."""
    cdef Span raw
    cdef bint escaped
    cdef JsonNumber number
    cdef uint8_t c = json_peek(reader)
    if c == 34:
        return json_string(reader, &raw, &escaped)
    if c == 116:
        return JSON_OK if json_take_word(reader, "true") else JSON_INVALID
    if c == 102:
        return JSON_OK if json_take_word(reader, "false") else JSON_INVALID
    if c == 110:
        return JSON_OK if json_take_word(reader, "null") else JSON_INVALID
    return json_number(reader, &number)


cdef int json_member_name(JsonReader* reader) noexcept nogil:
    """`"name" :`, and on to the value."""
    cdef Span raw
    cdef bint escaped
    cdef int rc
    json_space(reader)
    if json_peek(reader) != 34:
        return JSON_MISS_NAME
    rc = json_string(reader, &raw, &escaped)
    if rc != JSON_OK:
        return rc
    json_space(reader)
    return JSON_OK if json_take(reader, 58) else JSON_MISS_COLON


cdef int json_after_value(JsonReader* reader, JsonNesting* nesting, int64_t* more) noexcept nogil:
    """Closes brackets until a comma (then a name, in objects) announces another value (`more` = 1) or nothing is open (0)."""
    cdef bint is_object
    more[0] = 0
    while nesting.depth > 0:
        is_object = json_in_object(nesting)
        json_space(reader)
        if json_take(reader, 44):
            more[0] = 1
            return json_member_name(reader) if is_object else JSON_OK
        if not json_take(reader, 125 if is_object else 93):
            return JSON_MISS_COMMA_OBJECT if is_object else JSON_MISS_COMMA_ARRAY
        nesting.depth -= 1
    return JSON_OK


cdef int json_walk(JsonReader* reader, JsonNesting* nesting) noexcept nogil:
    cdef int64_t more = 1
    cdef bint root = True
    cdef int rc
    cdef uint8_t c
    while more:
        json_space(reader)
        c = json_peek(reader)
        if c == 0 or c == 93 or c == 125 or c == 44 or c == 58:
            return JSON_EMPTY if root else JSON_INVALID
        root = False
        if c == 123 or c == 91:
            reader.at += 1
            rc = json_nest(nesting, c == 123)
            if rc != JSON_OK:
                return rc
            json_space(reader)
            if json_take(reader, c + 2):               # } is { + 2, ] is [ + 2
                nesting.depth -= 1
            else:
                if c == 123:
                    rc = json_member_name(reader)
                    if rc != JSON_OK:
                        return rc
                continue
        else:
            rc = json_scalar(reader)
            if rc != JSON_OK:
                return rc
        rc = json_after_value(reader, nesting, &more)
        if rc != JSON_OK:
            return rc
    return JSON_OK


cdef int json_validate(JsonReader* reader) noexcept nogil:
    """Passes over the first whole value: JSON_OK, or a JsonError with `at` at the offset the reference reports."""
    cdef JsonNesting nesting
    cdef int rc
    nesting.bits = NULL
    nesting.depth = nesting.cap = 0
    rc = json_walk(reader, &nesting)
    free(nesting.bits)
    return rc
