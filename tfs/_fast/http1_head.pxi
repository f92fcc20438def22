# http1_head.pxi: the head of an HTTP/1.1 request, in its plain form.
#
# Owns: which heads are plain: POST, HTTP/1.1, one Content-Length, no header that changes what the body is or what follows it.
# Must not know: connections, targets.
# Strategy: a head is understood to its last byte or it is foreign: nothing that another parser may read differently is taken.  Headers
# that matter are found by a table.
# Format: RFC 9112.

cdef enum:
    HTTP1_HEAD = 8192              # longest head that is waited for
    HTTP1_NAME = 24                # longest name of a header that matters
    HTTP1_RULES = 8

cdef enum Http1Read:
    HTTP1_MORE = 0                 # so far it may become a request for us
    HTTP1_OURS = 1
    HTTP1_FOREIGN = 2

cdef struct Http1Head:
    Span target
    Span accept_encoding           # the first one; ptr NULL = none
    size_t len                     # of the head, empty line included
    int64_t body_len               # -1 = not told
    uint8_t last                   # Connection: close
    uint8_t foreign

ctypedef void (*Http1Take)(Http1Head* head, Span value) noexcept nogil

cdef struct Http1Rule:
    Span name                      # lower case
    Http1Take take

cdef Http1Rule http1_rules[HTTP1_RULES]
cdef uint8_t http1_token[256]      # the byte in lower case where it may be part of a header's name, else 0


cdef int http1_tables() except -1:
    """Fills the tables above; once, at import."""
    cdef int byte
    for byte in bytearray(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"):
        http1_token[byte] = byte
        http1_token[<int>bytes([byte]).upper()[0]] = byte
    http1_rule(0, "content-length", http1_take_length)
    http1_rule(1, "connection", http1_take_connection)
    http1_rule(2, "accept-encoding", http1_take_accept)
    http1_rule(3, "transfer-encoding", http1_take_foreign)
    http1_rule(4, "content-encoding", http1_take_foreign)
    http1_rule(5, "expect", http1_take_foreign)
    http1_rule(6, "upgrade", http1_take_foreign)
    http1_rule(7, "proxy-connection", http1_take_foreign)
    return 0


cdef void http1_rule(int index, const char* name, Http1Take take) noexcept nogil:
    http1_rules[index].name = span_text(name)
    http1_rules[index].take = take


# -- the head of a request

cdef void http1_take_foreign(Http1Head* head, Span value) noexcept nogil:
    head.foreign = 1


cdef void http1_take_length(Http1Head* head, Span value) noexcept nogil:
    if head.body_len >= 0 or not rest_number(value, &head.body_len):
        head.foreign = 1


cdef void http1_take_connection(Http1Head* head, Span value) noexcept nogil:
    if http1_same(value, "close"):
        head.last = 1
    elif not http1_same(value, "keep-alive"):
        head.foreign = 1


cdef void http1_take_accept(Http1Head* head, Span value) noexcept nogil:
    if head.accept_encoding.ptr == NULL:
        head.accept_encoding = value


cdef inline uint8_t http1_lower(uint8_t byte) noexcept nogil:
    return byte | 0x20 if c"A" <= byte <= c"Z" else byte


cdef bint http1_same(Span value, const char* text) noexcept nogil:
    """Equal, whatever the case; `text` is in lower case."""
    cdef size_t index
    if value.len != strlen(text):
        return False
    for index in range(value.len):
        if http1_lower(value.ptr[index]) != <uint8_t>text[index]:
            return False
    return True


cdef Span http1_trim(Span value) noexcept nogil:
    while value.len > 0 and (value.ptr[0] == c" " or value.ptr[0] == c"\t"):
        value.ptr += 1
        value.len -= 1
    while value.len > 0 and (value.ptr[value.len - 1] == c" " or value.ptr[value.len - 1] == c"\t"):
        value.len -= 1
    return value


cdef int http1_line(const uint8_t** at, const uint8_t* end, Span* line) noexcept nogil:
    """The next line without its CR LF, and past it.  HTTP1_FOREIGN when a control character stands in it."""
    cdef const uint8_t* stop = <const uint8_t*>memchr(at[0], c"\n", end - at[0])
    cdef size_t index
    if stop == NULL:
        return HTTP1_MORE
    line.ptr = at[0]
    line.len = stop - at[0]
    at[0] = stop + 1
    if line.len == 0 or (stop - 1)[0] != c"\r":
        return HTTP1_FOREIGN
    line.len -= 1
    for index in range(line.len):
        if line.ptr[index] < 0x20 and line.ptr[index] != c"\t" or line.ptr[index] == 0x7F:
            return HTTP1_FOREIGN
    return HTTP1_OURS


cdef void http1_field(Http1Head* head, Span line) noexcept nogil:
    """One header line: `name: value`."""
    cdef uint8_t lower[HTTP1_NAME]
    cdef Span name, value
    cdef size_t length = 0
    cdef int index
    while length < line.len and http1_token[line.ptr[length]]:
        if length < HTTP1_NAME:
            lower[length] = http1_token[line.ptr[length]]
        length += 1
    if length == 0 or length == line.len or line.ptr[length] != c":":
        head.foreign = 1                             # also a line that goes on with the one before
        return
    if length > HTTP1_NAME:
        return
    name.ptr = lower
    name.len = length
    for index in range(HTTP1_RULES):
        if span_equal(http1_rules[index].name, name):
            value.ptr = line.ptr + length + 1
            value.len = line.len - length - 1
            http1_rules[index].take(head, http1_trim(value))
            return


cdef int http1_read_head(const uint8_t* data, size_t size, Http1Head* head) noexcept nogil:
    """Http1Read.  The spans of `head` point into `data`."""
    cdef const uint8_t* at = data
    cdef const uint8_t* end = data + size
    cdef const char* before = "POST "
    cdef const char* after = " HTTP/1.1"
    cdef Span line
    cdef int found
    memset(head, 0, sizeof(Http1Head))
    head.body_len = -1
    if memcmp(data, before, min(size, <size_t>5)) != 0:
        return HTTP1_FOREIGN
    found = http1_line(&at, end, &line)
    if found == HTTP1_OURS:
        if line.len < 14 or memcmp(line.ptr + line.len - 9, after, 9) != 0:
            return HTTP1_FOREIGN
        head.target.ptr = line.ptr + 5
        head.target.len = line.len - 14
    while found == HTTP1_OURS:
        found = http1_line(&at, end, &line)
        if found == HTTP1_OURS and line.len == 0:
            head.len = at - data
            break
        if found == HTTP1_OURS:
            http1_field(head, line)
        if head.foreign:
            return HTTP1_FOREIGN
    if found == HTTP1_MORE and size >= HTTP1_HEAD:
        return HTTP1_FOREIGN
    if found == HTTP1_OURS and head.body_len < 0:
        return HTTP1_FOREIGN
    return found


cdef Span http1_until(Span* text, uint8_t separator) noexcept nogil:
    """Takes what stands before the next separator off the front of `text`, and the separator."""
    cdef const uint8_t* stop = <const uint8_t*>memchr(text.ptr, separator, text.len)
    cdef Span taken
    taken.ptr = text.ptr
    taken.len = text.len if stop == NULL else stop - text.ptr
    text.ptr += taken.len + (stop != NULL)
    text.len -= taken.len + (stop != NULL)
    return taken


cdef bint http1_weighs_nothing(Span parameters) noexcept nogil:
    """q=0, q=0.0, q=0.00, q=0.000"""
    cdef const char* form = "q=0.000"
    cdef size_t index
    cdef size_t length = 0
    for index in range(parameters.len):
        if parameters.ptr[index] == c" ":
            continue
        if length == 7 or http1_lower(parameters.ptr[index]) != <uint8_t>form[length]:
            return False
        length += 1
    return length == 3 or length >= 5


cdef bint http1_takes_gzip(Span accepted) noexcept nogil:
    """Whether an Accept-Encoding names gzip without giving it the weight 0 (RFC 9110, 12.5.3); the first name that matches counts."""
    cdef Span item, name
    while accepted.len > 0:
        item = http1_until(&accepted, c",")
        name = http1_trim(http1_until(&item, c";"))
        if http1_same(name, "gzip") or http1_same(name, "x-gzip") or http1_same(name, "*"):
            return not http1_weighs_nothing(item)
    return False


http1_tables()
