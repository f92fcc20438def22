# grpc.pxi: gRPC over HTTP/2, unary: request headers, message framing, handing out, status and trailers.
#
# Owns: what the bytes of a stream mean.  Must not know: sockets, windows, frames (http2.pxi calls in, http2_* carries out).
# Strategy: headers are read by a table into Stream fields as they come, nothing is kept as text; the message is collected into one
# Body; a complete request goes on the ready list; whoever answers encodes (grpc_done) and the I/O thread submits (grpc_respond).
# Protocol: github.com/grpc/grpc doc/PROTOCOL-HTTP2.md.

cdef enum:
    GRPC_PREFIX = 5                # compressed flag, message length (big-endian 32 bits)
    MESSAGE_CUT = 1024             # longest grpc-message before percent-encoding; the reference cuts there too
    MAX_UNSENT_REPLIES = 268435456  # per connection: four answers of 64 MiB may wait for a slow reader, then calls are refused
    MAX_COLD_CALLS = 1000          # waiting for Python: management calls, so more is a flood

ctypedef void (*HeaderTake)(Stream* st, Span value) noexcept nogil

cdef struct HeaderRule:
    Span name
    HeaderTake take

cdef HeaderRule grpc_rules[5]
cdef nghttp2_nv grpc_head[3]      # :status 200, content-type, grpc-accept-encoding
cdef nghttp2_nv grpc_ok_trailer
cdef nghttp2_nv grpc_http_status[2]      # 405, 415
cdef char grpc_code_texts[17][3]


cdef nghttp2_nv grpc_field(const char* name, const char* value) noexcept nogil:
    """A field whose texts live as long as the program."""
    cdef nghttp2_nv field
    field.name = <uint8_t*>name
    field.value = <uint8_t*>value
    field.namelen = strlen(name)
    field.valuelen = strlen(value)
    field.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE
    return field


cdef void grpc_rule(int index, const char* name, HeaderTake take) noexcept nogil:
    grpc_rules[index].name = span_text(name)
    grpc_rules[index].take = take


cdef void grpc_tables() noexcept nogil:
    """Fills the tables above; once, at import."""
    global grpc_ok_trailer
    cdef int code
    grpc_rule(0, "content-type", grpc_take_content_type)
    grpc_rule(1, ":path", grpc_take_path)
    grpc_rule(2, "grpc-timeout", grpc_take_timeout)
    grpc_rule(3, ":method", grpc_take_method)
    grpc_rule(4, "grpc-encoding", grpc_take_encoding)
    grpc_head[0] = grpc_field(":status", "200")
    grpc_head[1] = grpc_field("content-type", "application/grpc")
    grpc_head[2] = grpc_field("grpc-accept-encoding", "identity,deflate,gzip")
    grpc_ok_trailer = grpc_field("grpc-status", "0")
    grpc_http_status[0] = grpc_field(":status", "405")
    grpc_http_status[1] = grpc_field(":status", "415")
    for code in range(17):
        snprintf(grpc_code_texts[code], 3, "%d", code)


grpc_tables()


# -- request headers

cdef void grpc_take_content_type(Stream* st, Span value) noexcept nogil:
    """application/grpc, application/grpc+proto, either with parameters."""
    cdef size_t at = 16
    if value.len < at or memcmp(value.ptr, b"application/grpc", at) != 0:
        return
    if value.len >= at + 6 and memcmp(value.ptr + at, b"+proto", 6) == 0:
        at += 6
    st.type_ok = value.len == at or value.ptr[at] == c";"


cdef void grpc_take_path(Stream* st, Span value) noexcept nogil:
    cdef int index
    cdef NativeCore* core = st.thread.core
    for index in range(core.route_count):
        if span_equal(core.routes[index].path, value):
            st.route = index
            return


cdef void grpc_take_method(Stream* st, Span value) noexcept nogil:
    st.method_ok = span_is(value, b"POST")


cdef void grpc_take_encoding(Stream* st, Span value) noexcept nogil:
    if span_is(value, b"identity"):
        st.encoding = ENCODING_IDENTITY
    elif span_is(value, b"gzip") or span_is(value, b"deflate"):
        st.encoding = ENCODING_GZIP
    else:
        st.encoding = ENCODING_UNKNOWN


cdef int64_t grpc_unit_ns(uint8_t unit) noexcept nogil:
    if unit == c"m":
        return NS_PER_MS
    if unit == c"S":
        return NS_PER_S
    if unit == c"u":
        return NS_PER_US
    if unit == c"n":
        return 1
    if unit == c"M":
        return 60 * <int64_t>NS_PER_S
    return 3600 * <int64_t>NS_PER_S if unit == c"H" else 0


cdef void grpc_take_timeout(Stream* st, Span value) noexcept nogil:
    """1 to 8 digits and a unit.  Anything else is no deadline, as with gRPC's own server."""
    cdef int64_t number = 0
    cdef int64_t unit
    cdef size_t index
    if value.len < 2 or value.len > 9:
        return
    for index in range(value.len - 1):
        if value.ptr[index] < c"0" or value.ptr[index] > c"9":
            return
        number = number * 10 + (value.ptr[index] - c"0")
    unit = grpc_unit_ns(value.ptr[value.len - 1])
    if unit != 0:
        st.timeout_ns = number * unit if number <= INT64_MAX // 4 // unit else INT64_MAX // 4


cdef void grpc_header(Stream* st, Span name, Span value) noexcept nogil:
    cdef int index
    st.metadata += name.len + value.len + 32
    for index in range(5):
        if span_equal(grpc_rules[index].name, name):
            grpc_rules[index].take(st, value)
            return


cdef void grpc_headers_end(Stream* st) noexcept nogil:
    """The header block is complete: refuse what cannot be served before any body is collected."""
    cdef NativeLimits* limits = &st.thread.core.limits
    st.headers_done = 1
    st.started_ns = st.thread.now
    st.moved_ns = st.thread.now
    if not st.method_ok:
        http2_refuse(st, &grpc_http_status[0])
    elif not st.type_ok:
        http2_refuse(st, &grpc_http_status[1])
    elif <int64_t>st.metadata > limits.max_metadata:
        grpc_refuse_numbers(st, "received metadata size exceeds hard limit (%lld vs. %lld)", st.metadata, limits.max_metadata)
    elif st.route < 0:
        grpc_refuse(st, UNIMPLEMENTED, "")
    elif st.encoding == ENCODING_UNKNOWN:
        grpc_refuse(st, UNIMPLEMENTED, "grpc-encoding of the request is not one of identity, deflate, gzip")
    elif st.conn.reply_bytes > MAX_UNSENT_REPLIES:
        grpc_refuse_numbers(
            st, "%lld bytes of answers wait to be read on this connection, more than %lld", st.conn.reply_bytes, MAX_UNSENT_REPLIES)


# -- the message

cdef int grpc_prefix(Stream* st) noexcept nogil:
    """The five bytes before the message are there: 0, or -1 when the call was refused."""
    cdef int64_t limit = st.thread.core.limits.max_message_bytes
    st.message_len = (<size_t>st.prefix[1] << 24) | (<size_t>st.prefix[2] << 16) | (<size_t>st.prefix[3] << 8) | st.prefix[4]
    if st.prefix[0] > 1:
        grpc_refuse(st, INTERNAL, "the compressed flag of the message is neither 0 nor 1")
    elif st.prefix[0] == 1 and st.encoding == ENCODING_IDENTITY:
        grpc_refuse(st, INTERNAL, "the message is compressed, but the request names no grpc-encoding")
    elif <int64_t>st.message_len > limit:
        grpc_refuse_numbers(st, "SERVER: Received message larger than max (%lld vs. %lld)", st.message_len, limit)
    else:
        return 0
    return -1


cdef void grpc_data(Stream* st, Span data) noexcept nogil:
    """The next bytes of the stream, split anyhow."""
    cdef Body* body
    if st.answered or not st.headers_done:
        return
    while st.prefix_len < GRPC_PREFIX and data.len > 0:
        st.prefix[st.prefix_len] = data.ptr[0]
        st.prefix_len += 1
        data.ptr += 1
        data.len -= 1
        if st.prefix_len == GRPC_PREFIX and grpc_prefix(st) < 0:
            return
    if data.len == 0:
        return
    if data.len > st.message_len - st.body_len:
        grpc_refuse(st, INTERNAL, "a unary call takes one message, more came")
        return
    body = body_room(st.body, st.thread.core.budget, st.body_len + data.len, st.message_len)
    if body == NULL:
        grpc_refuse(st, RESOURCE_EXHAUSTED, "no memory for the request")
        return
    st.body = body
    memcpy(body_bytes(body) + st.body_len, data.ptr, data.len)
    st.body_len += data.len


cdef void grpc_request_end(Stream* st) noexcept nogil:
    """END_STREAM: the request is whole, or it never will be."""
    st.request_ended = 1
    http2_received(st)
    if st.answered or st.stage != STAGE_IDLE:
        return
    if st.prefix_len < GRPC_PREFIX or st.body_len < st.message_len:
        grpc_refuse(st, INTERNAL, "the request ended before its message was complete")
        return
    if st.body == NULL:
        st.body = body_room(NULL, st.thread.core.budget, 0, 0)
        if st.body == NULL:
            grpc_refuse(st, RESOURCE_EXHAUSTED, "no memory for the request")
            return
    if st.prefix[0] == 1:
        inflate_submit(st)
    else:
        stream_ready(st)


# -- handing out

cdef int64_t grpc_deadline(Stream* st) noexcept nogil:
    return INT64_MAX if st.timeout_ns < 0 else st.started_ns + st.timeout_ns


cdef void grpc_dispatch(Stream* st, int64_t inline_budget_ns) noexcept nogil:
    """A complete request -> the engine (or Python).  `inline_budget_ns`: how long the engine may run it on this thread; 0 = not at all."""
    cdef NativeCore* core = st.thread.core
    cdef Call* call
    if core.routes[st.route].cold:
        grpc_dispatch_cold(st)
        return
    call = core.consumer.open(core.consumer.context)
    if call == NULL:
        grpc_refuse(st, RESOURCE_EXHAUSTED, "no memory for the call")
        return
    call.done = grpc_done
    call.release = core.consumer.release
    call.owner = st
    call.body.ptr = body_bytes(st.body)
    call.body.len = st.body_len
    call.start_ns = st.thread.now
    call.deadline_ns = grpc_deadline(st)
    call.method = METHOD_PREDICT
    call.entry = ENTRY_GRPC
    call.inline_budget_ns = inline_budget_ns
    call.keep = stream_keep
    st.body = NULL
    st.call = call
    st.stage = STAGE_CALL
    st.thread.outstanding += 1
    core.consumer.submit(call)


cdef void grpc_dispatch_cold(Stream* st) noexcept nogil:
    cdef NativeCore* core = st.thread.core
    if atomic_add64(&core.cold_count, 1) > MAX_COLD_CALLS:
        atomic_add64(&core.cold_count, -1)
        grpc_refuse_numbers(st, "more than %lld management calls are waiting (limit %lld)", MAX_COLD_CALLS, MAX_COLD_CALLS)
        return
    st.stage = STAGE_COLD
    socket_peer(st.conn.fd, st.peer, sizeof(st.peer))
    if transport_push(&core.cold, st):
        event_write(core.cold_fd)


# -- answering: any thread, until stream_complete publishes

cdef void grpc_done(Call* call) noexcept nogil:
    cdef Stream* st = <Stream*>call.owner
    if not atomic_load32(&st.closed):
        if call.status.code == OK:
            grpc_encode(st, call)
        else:
            grpc_set_error(st, call.status.code, call.status.text.ptr, call.status.text.len)
    stream_complete(st)


cdef void grpc_encode(Stream* st, Call* call) noexcept nogil:
    """Prefix and message in one block, so that a small answer is one copy into the socket's buffer."""
    cdef Consumer* consumer = &st.thread.core.consumer
    cdef size_t size = consumer.size(call)
    cdef uint8_t* out
    if call.status.code != OK:
        grpc_set_error(st, call.status.code, call.status.text.ptr, call.status.text.len)
        return
    if size > <size_t>MAX_REPLY_BYTES:
        grpc_set_error(st, INTERNAL, "the reply is larger than a protobuf message can be (2 GiB)", 58)
        return
    out = <uint8_t*>malloc(GRPC_PREFIX + size)
    if out == NULL:
        grpc_set_error(st, RESOURCE_EXHAUSTED, "no memory for the answer", 24)
        return
    advise_huge(out, GRPC_PREFIX + size)
    grpc_put_prefix(out, size)
    consumer.write(call, out + GRPC_PREFIX)
    st.code = OK
    st.reply = out
    st.reply_len = GRPC_PREFIX + size


cdef void grpc_put_prefix(uint8_t* out, size_t size) noexcept nogil:
    out[0] = 0
    out[1] = <uint8_t>(size >> 24)
    out[2] = <uint8_t>(size >> 16)
    out[3] = <uint8_t>(size >> 8)
    out[4] = <uint8_t>size


cdef void grpc_set_error(Stream* st, int code, const char* text, size_t size) noexcept nogil:
    """Code and percent-encoded text into the stream.  Without memory the text is lost, the code stays."""
    cdef const char* digits = "0123456789ABCDEF"
    cdef size_t at
    cdef size_t length = 0
    cdef uint8_t byte
    cdef uint8_t* out
    cdef bint cut = size > MESSAGE_CUT
    if cut:
        size = MESSAGE_CUT
    st.code = code if CANCELLED <= code <= UNAUTHENTICATED else UNKNOWN
    out = <uint8_t*>malloc(size * 3 + 16)
    free(st.reply)
    st.reply = out
    st.reply_len = 0
    if out == NULL:
        return
    for at in range(size):
        byte = <uint8_t>text[at]
        if 0x20 <= byte <= 0x7E and byte != c"%":
            out[length] = byte
            length += 1
        else:
            out[length] = c"%"
            out[length + 1] = digits[byte >> 4]
            out[length + 2] = digits[byte & 15]
            length += 3
    if cut:
        memcpy(out + length, b"...TRUNCATED", 12)
        length += 12
    st.reply_len = length


# -- the response: I/O thread

cdef void grpc_refuse(Stream* st, int code, const char* text) noexcept nogil:
    """Answers a stream that nobody else has."""
    grpc_set_error(st, code, text, strlen(text))
    grpc_respond(st)


cdef void grpc_refuse_numbers(Stream* st, const char* form, int64_t came, int64_t limit) noexcept nogil:
    """RESOURCE_EXHAUSTED with a text that names the limit."""
    cdef char text[160]
    snprintf(text, sizeof(text), form, <long long>came, <long long>limit)
    grpc_refuse(st, RESOURCE_EXHAUSTED, text)


cdef void grpc_respond(Stream* st) noexcept nogil:
    """Submits the answer that stands in the stream: headers + message + trailers, or trailers only."""
    cdef nghttp2_nv fields[5]
    cdef int count = 2
    if st.code == OK:
        atomic_bump64(&st.thread.stats.answered, 1)
        http2_respond(st, grpc_head, 2, True)
        return
    atomic_bump64(&st.thread.stats.errors, 1)
    memcpy(fields, grpc_head, 2 * sizeof(nghttp2_nv))
    if st.encoding == ENCODING_UNKNOWN:
        fields[count] = grpc_head[2]
        count += 1
    fields[count] = grpc_field("grpc-status", grpc_code_texts[st.code])
    count += 1
    if st.reply_len > 0:
        fields[count] = grpc_field("grpc-message", "")
        fields[count].value = st.reply
        fields[count].valuelen = st.reply_len
        # Texts differ: they would only push better entries out of the peer's header table.
        fields[count].flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX
        count += 1
    http2_respond(st, fields, count, False)
