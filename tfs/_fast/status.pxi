# status.pxi: codes and the cold path that writes an error text.
#
# Owns: the canonical codes, Text (a growing string) and Status.  Must not know: where a text comes from or goes to.
# Strategy: functions that may fail return a code and write the text once, here, out of line.  Success never touches
# this file.  When memory runs out the text is shortened, the code stays.

cdef enum Code:
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


cdef void text_add(Text* text, const char* data, size_t size) noexcept nogil:
    cdef size_t cap
    cdef char* grown
    if text.len + size + 1 > text.cap:
        cap = (text.len + size + 1) * 2 + 64
        grown = <char*>realloc(text.ptr, cap)
        if grown == NULL:
            return
        text.ptr = grown
        text.cap = cap
    memcpy(text.ptr + text.len, data, size)
    text.len += size
    text.ptr[text.len] = 0


cdef void text_str(Text* text, const char* data) noexcept nogil:
    text_add(text, data, strlen(data))


cdef void text_span(Text* text, Span span) noexcept nogil:
    text_add(text, <const char*>span.ptr, span.len)


cdef void text_int(Text* text, int64_t value) noexcept nogil:
    cdef char buffer[24]
    text_add(text, buffer, snprintf(buffer, sizeof(buffer), "%lld", <long long>value))


cdef void text_free(Text* text) noexcept nogil:
    free(text.ptr)
    text.ptr = NULL
    text.len = 0
    text.cap = 0


cdef void status_clear(Status* status) noexcept nogil:
    status.code = OK
    text_free(&status.text)


cdef int status_set(Status* status, int code, const char* message) noexcept nogil:
    """Sets code and text; returns `code`, so that a caller writes `return status_set(...)`."""
    status_clear(status)
    status.code = code
    text_str(&status.text, message)
    return code


cdef int status_quote(Status* status, int code, const char* before, Span quoted, const char* after) noexcept nogil:
    """`before` + quoted + `after`: the shape of most texts."""
    status_set(status, code, before)
    text_span(&status.text, quoted)
    text_str(&status.text, after)
    return code


cdef object status_error(const Status* status):
    """The Python exception for a status that is not OK.  Needs the GIL; bytes that are no UTF-8 become surrogates, so that REST
    can quote a body as it came."""
    cdef bytes raw = b"" if status.text.ptr == NULL else (<const char*>status.text.ptr)[:status.text.len]
    return errors.from_code(status.code, raw.decode("utf-8", "surrogateescape"))


cdef bytes span_bytes(Span span):
    return (<const char*>span.ptr)[:span.len] if span.len else b""


cdef Span bytes_span(bytes data):
    """Points into `data`; the caller keeps it alive."""
    cdef Span span
    span.ptr = <const uint8_t*><const char*>data
    span.len = len(data)
    return span
