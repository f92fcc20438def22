# rest.pxi: a REST predict as a consumer of the engine: the request's target -> a ticket, the answer -> a body.
#
# Owns: the targets that are answered on an I/O thread, what an answer's body is.  Must not know: the bytes of HTTP (http1.pxi), JSON.
# Strategy: only `/v1/models/NAME[/versions/N|/labels/LABEL]:predict` with names that need no decoding; transport/rest_routes.py knows
# every quirk of the others and serves them.  Body and names of a request lie in one block, which the ticket owns from submit on.

cdef enum:
    REST_VERSION_DIGITS = 18       # more might not fit: Python words that error
    REST_LONG_ANSWER = 65536       # a connection that got one like this has its next call run and printed by a runner

cdef struct RestRoute:
    Span model
    Span label
    int64_t version
    int32_t version_choice         # VersionChoice


# -- targets

cdef inline bint rest_skip(Span* text, const char* prefix) noexcept nogil:
    """Takes `prefix` off the front of `text`, where it stands there."""
    cdef size_t size = strlen(prefix)
    if text.len < size or memcmp(text.ptr, prefix, size) != 0:
        return False
    text.ptr += size
    text.len -= size
    return True


cdef Span rest_name(Span* text) noexcept nogil:
    """Takes the longest name off the front of `text`; empty where none stands there."""
    cdef Span name
    cdef uint8_t byte
    name.ptr = text.ptr
    while text.len > 0:
        byte = text.ptr[0]
        if not (c"a" <= byte <= c"z" or c"A" <= byte <= c"Z" or c"0" <= byte <= c"9" or byte == c"_" or byte == c"-" or byte == c"."):
            break
        text.ptr += 1
        text.len -= 1
    name.len = text.ptr - name.ptr
    return name


cdef bint rest_number(Span text, int64_t* number) noexcept nogil:
    cdef size_t index
    number[0] = 0
    if text.len == 0 or text.len > REST_VERSION_DIGITS:
        return False
    for index in range(text.len):
        if not c"0" <= text.ptr[index] <= c"9":
            return False
        number[0] = number[0] * 10 + (text.ptr[index] - c"0")
    return True


cdef bint rest_route(Span target, RestRoute* route) noexcept nogil:
    """False: a target for Python."""
    memset(route, 0, sizeof(RestRoute))
    if not rest_skip(&target, "/v1/models/"):
        return False
    route.model = rest_name(&target)
    if rest_skip(&target, "/versions/"):
        route.version_choice = VERSION_NUMBER
        if not rest_number(rest_name(&target), &route.version):
            return False
    elif rest_skip(&target, "/labels/"):
        route.version_choice = VERSION_LABEL
        route.label = rest_name(&target)
        if route.label.len == 0:
            return False
    return route.model.len > 0 and rest_skip(&target, ":predict") and target.len == 0


# -- requests

cdef int rest_take(Stream* st, const RestRoute* route, Span body) noexcept nogil:
    """Copies what the ticket will need into the stream's Body.  0, or -1: no memory."""
    cdef size_t size = body.len + route.model.len + route.label.len
    cdef uint8_t* at
    st.body = body_room(NULL, st.thread.core.budget, size, size)
    if st.body == NULL:
        return -1
    at = body_bytes(st.body)
    memcpy(at, body.ptr, body.len)
    memcpy(at + body.len, route.model.ptr, route.model.len)
    if route.label.len:
        memcpy(at + body.len + route.model.len, route.label.ptr, route.label.len)
    st.body_len = body.len
    st.model_len = route.model.len
    st.label_len = route.label.len
    st.version = route.version
    st.version_choice = route.version_choice
    st.started_ns = st.thread.now
    return 0


cdef void rest_dispatch(Stream* st, int64_t inline_budget_ns) noexcept nogil:
    """A complete request -> the engine.  `inline_budget_ns`: how long the engine may run it on this thread; 0 = not at all."""
    cdef NativeCore* core = st.thread.core
    cdef Call* call = core.consumer.open(core.consumer.context)
    if call == NULL:
        rest_set_error(st, RESOURCE_EXHAUSTED, "no memory for the call", 22)
        http1_respond(st)
        return
    call.done = rest_done
    call.release = core.consumer.release
    call.owner = st
    call.body.ptr = body_bytes(st.body)
    call.body.len = st.body_len
    call.has_spec = 1
    call.model.ptr = call.body.ptr + st.body_len
    call.model.len = st.model_len
    call.label.ptr = call.model.ptr + st.model_len
    call.label.len = st.label_len
    call.version = st.version
    call.version_choice = st.version_choice
    call.start_ns = st.started_ns
    call.deadline_ns = st.started_ns + core.rest.timeout_ns if core.rest.timeout_ns else INT64_MAX
    call.method = METHOD_PREDICT
    call.entry = ENTRY_REST
    if not st.conn.long_answers:                     # whoever runs the model prints the answer, too
        call.inline_budget_ns = inline_budget_ns
        call.keep = stream_keep
    st.body = NULL
    st.call = call
    st.stage = STAGE_CALL
    st.thread.outstanding += 1
    core.consumer.submit_json(call)


# -- answers: any thread, until stream_complete publishes

cdef void rest_done(Call* call) noexcept nogil:
    cdef Stream* st = <Stream*>call.owner
    cdef Text text
    if not atomic_load32(&st.closed):
        memset(&text, 0, sizeof(Text))
        if call.status.code == OK and st.thread.core.consumer.text(call, &text) == OK:
            st.code = OK
            st.reply = <uint8_t*>text.ptr
            st.reply_len = text.len
            st.long_answer = text.len > REST_LONG_ANSWER
            if io_current == NULL and rest_to_pack(st):
                rest_pack(st)
        else:
            text_free(&text)
            rest_set_error(st, call.status.code, call.status.text.ptr, call.status.text.len)
    stream_complete(st)


cdef void rest_set_error(Stream* st, int code, const char* message, size_t size) noexcept nogil:
    """Code and JSON of an error, laid out as the reference does.  Without memory the text is lost, the code stays."""
    cdef Text text
    cdef Span quoted
    memset(&text, 0, sizeof(Text))
    quoted.ptr = <const uint8_t*>message
    quoted.len = size
    text_str(&text, "{\n    \"error\": ")
    json_add_escaped(&text, quoted)
    text_str(&text, "\n}")
    free(st.reply)
    st.code = code if CANCELLED <= code <= UNAUTHENTICATED else UNKNOWN
    st.reply = <uint8_t*>text.ptr
    st.reply_len = text.len


cdef inline bint rest_to_pack(Stream* st) noexcept nogil:
    return st.packing == PACK_WANTED and <int64_t>st.reply_len >= st.thread.core.rest.gzip_min_bytes


cdef void rest_pack(Stream* st) noexcept nogil:
    """The body as gzip, where that works.  On any thread but an I/O thread: a megabyte takes ten milliseconds."""
    cdef size_t room = compressBound(st.reply_len) + 18        # gzip's head and trailer are longer than zlib's
    cdef uint8_t* packed = <uint8_t*>malloc(room)
    cdef size_t size = gzip_member(st.reply, st.reply_len, packed, room) if packed != NULL else 0
    if size == 0:
        free(packed)
        st.packing = PACK_NO
        return
    free(st.reply)
    st.reply = packed
    st.reply_len = size
    st.packing = PACK_DONE
