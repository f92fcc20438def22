# wire.pxi: the protobuf wire format: a bounds-checked cursor to read, size and write helpers to answer, the call's arena.
#
# Owns: varints, tags, length-delimited fields.  Must not know: any message.
# Strategy: `Cursor` is two pointers; only wire_varint, wire_fixed and wire_bytes advance it, and each checks before it reads.
# All return 0 or -1 (malformed); nothing allocates.  Format: protobuf.dev/programming-guides/encoding.

cdef enum WireType:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    WIRE_GROUP_START = 3
    WIRE_GROUP_END = 4
    WIRE_FIXED32 = 5

cdef enum:
    WIRE_MAX_GROUP_DEPTH = 100     # protobuf's own recursion limit

cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end


cdef inline Cursor wire_cursor(Span span) noexcept nogil:
    cdef Cursor cursor
    cursor.at = span.ptr
    cursor.end = span.ptr + span.len
    return cursor


cdef inline int wire_varint(Cursor* cursor, uint64_t* value) noexcept nogil:
    """At most ten bytes; bits beyond 64 are dropped, as protobuf does."""
    cdef uint64_t result = 0
    cdef uint8_t byte
    cdef int shift = 0
    while cursor.at < cursor.end and shift < 70:
        byte = cursor.at[0]
        cursor.at += 1
        if shift < 64:
            result |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = result
            return 0
        shift += 7
    return -1


cdef inline int wire_bytes(Cursor* cursor, Span* span) noexcept nogil:
    cdef uint64_t size
    if wire_varint(cursor, &size) < 0 or size > <uint64_t>(cursor.end - cursor.at):
        return -1
    span.ptr = cursor.at
    span.len = <size_t>size
    cursor.at += size
    return 0


cdef inline int wire_fixed(Cursor* cursor, size_t width, const uint8_t** at) noexcept nogil:
    if width > <size_t>(cursor.end - cursor.at):
        return -1
    at[0] = cursor.at
    cursor.at += width
    return 0


cdef inline int wire_tag(Cursor* cursor, uint32_t* field, uint32_t* wire_type) noexcept nogil:
    """Field numbers above 2^29-1 and zero are malformed, as is a tag beyond 32 bits."""
    cdef uint64_t tag
    if wire_varint(cursor, &tag) < 0 or (tag >> 32) != 0 or tag < 8:
        return -1
    field[0] = <uint32_t>(tag >> 3)
    wire_type[0] = <uint32_t>(tag & 7)
    return 0


cdef int wire_skip(Cursor* cursor, uint32_t field, uint32_t wire_type) noexcept nogil:
    """Skips the value of an unknown field, groups included (iteratively, depth bounded)."""
    cdef uint64_t ignored
    cdef Span span
    cdef const uint8_t* at
    cdef uint32_t open_fields[WIRE_MAX_GROUP_DEPTH]
    cdef int depth = 0
    while True:
        if wire_type == WIRE_VARINT:
            if wire_varint(cursor, &ignored) < 0:
                return -1
        elif wire_type == WIRE_FIXED64:
            if wire_fixed(cursor, 8, &at) < 0:
                return -1
        elif wire_type == WIRE_BYTES:
            if wire_bytes(cursor, &span) < 0:
                return -1
        elif wire_type == WIRE_FIXED32:
            if wire_fixed(cursor, 4, &at) < 0:
                return -1
        elif wire_type == WIRE_GROUP_START:
            if depth == WIRE_MAX_GROUP_DEPTH:
                return -1
            open_fields[depth] = field
            depth += 1
        elif wire_type == WIRE_GROUP_END:
            if depth == 0 or open_fields[depth - 1] != field:
                return -1
            depth -= 1
        else:
            return -1
        if depth == 0:
            return 0
        if wire_tag(cursor, &field, &wire_type) < 0:
            return -1


cdef bint wire_utf8(Span text) noexcept nogil:
    """Well-formed UTF-8 (no overlong forms, surrogates or code points above 10FFFF): proto3 refuses other strings."""
    cdef const uint8_t* at = text.ptr
    cdef const uint8_t* end = at + text.len
    cdef uint8_t lead, low, high
    cdef int more
    while at < end:
        lead = at[0]
        at += 1
        if lead < 0x80:
            continue
        if lead < 0xC2 or lead > 0xF4:
            return False
        more = 1 if lead < 0xE0 else (2 if lead < 0xF0 else 3)
        if end - at < more:
            return False
        low = 0xA0 if lead == 0xE0 else (0x90 if lead == 0xF0 else 0x80)
        high = 0x9F if lead == 0xED else (0x8F if lead == 0xF4 else 0xBF)
        if at[0] < low or at[0] > high:
            return False
        if more > 1 and (at[1] & 0xC0) != 0x80:
            return False
        if more > 2 and (at[2] & 0xC0) != 0x80:
            return False
        at += more
    return True


# -- writing: the caller has sized the buffer with the same helpers, so nothing here checks

cdef inline size_t wire_varint_size(uint64_t value) noexcept nogil:
    cdef size_t size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline uint8_t* wire_put_varint(uint8_t* out, uint64_t value) noexcept nogil:
    while value >= 0x80:
        out[0] = <uint8_t>(value | 0x80)
        out += 1
        value >>= 7
    out[0] = <uint8_t>value
    return out + 1


cdef inline uint8_t* wire_put_bytes(uint8_t* out, uint8_t tag, Span span) noexcept nogil:
    out[0] = tag
    out = wire_put_varint(out + 1, span.len)
    memcpy(out, span.ptr, span.len)
    return out + span.len


cdef inline size_t wire_bytes_size(size_t length) noexcept nogil:
    """Tag (one byte) + length prefix + payload."""
    return 1 + wire_varint_size(length) + length


cdef inline bint span_equal(Span a, Span b) noexcept nogil:
    return a.len == b.len and memcmp(a.ptr, b.ptr, a.len) == 0


cdef inline Span span_text(const char* text) noexcept nogil:
    cdef Span span
    span.ptr = <const uint8_t*>text
    span.len = strlen(text)
    return span


cdef inline bint span_is(Span span, const char* text) noexcept nogil:
    return span.len == strlen(text) and memcmp(span.ptr, text, span.len) == 0


cdef inline int span_compare(Span a, Span b) noexcept nogil:
    """Byte order, shorter first on a common prefix (the order of std::map<string>)."""
    cdef int order = memcmp(a.ptr, b.ptr, a.len if a.len < b.len else b.len)
    if order != 0:
        return order
    return -1 if a.len < b.len else (1 if a.len > b.len else 0)


# -- the arena of a call

cdef inline void arena_init(Arena* arena) noexcept nogil:
    arena.at = arena.first
    arena.end = arena.first + sizeof(arena.first)
    arena.blocks = NULL


cdef void* arena_grow(Arena* arena, size_t size) noexcept nogil:
    cdef size_t capacity = size + sizeof(ArenaBlock) + 2048
    cdef ArenaBlock* block = <ArenaBlock*>malloc(capacity)
    if block == NULL:
        return NULL
    block.next = arena.blocks
    arena.blocks = block
    arena.at = <uint8_t*>block + sizeof(ArenaBlock) + size
    arena.end = <uint8_t*>block + capacity
    return <uint8_t*>block + sizeof(ArenaBlock)


cdef inline void* arena_take(Arena* arena, size_t size) noexcept nogil:
    """`size` bytes, 8-aligned, uninitialised; NULL when memory is out.  Sizes come from bytes already seen, never from a claim."""
    cdef void* result
    size = (size + 7) & ~<size_t>7
    if size > <size_t>(arena.end - arena.at):
        return arena_grow(arena, size)
    result = arena.at
    arena.at += size
    return result


cdef void arena_free(Arena* arena) noexcept nogil:
    cdef ArenaBlock* block = arena.blocks
    cdef ArenaBlock* following
    while block != NULL:
        following = block.next
        free(block)
        block = following
    arena_init(arena)
