# http2.pxi: one connection's HTTP/2: nghttp2's callbacks, windows, what is written, frames that cost and carry nothing.
#
# Owns: every call of nghttp2.  Must not know: gRPC's headers and messages (grpc.pxi), sockets and threads (io.pxi).
# Strategy: io.pxi feeds bytes (http2_feed) and asks for bytes (http2_collect); between the two nothing is written.  Windows are ours:
# a stream may send INITIAL_WINDOW unasked; a longer message gets more only as it arrives and as the process's byte budget allows.
# Answers are DATA frames that point into the reply (NO_COPY); small ones are copied beside their headers into one buffer.
# Format: RFC 9113.

cdef enum:
    INITIAL_WINDOW = 65536         # per stream, unasked: enough for almost every request; 100 streams hold 6.4 MB
    FIRST_CONN_WINDOW = 1048576    # per connection: 16 such streams in flight without waiting for us
    WIDE_CONN_WINDOW = 16777216    # once a connection sends large messages: 16 MiB per round trip is 800 MB/s at 20 ms
    WIDE_MESSAGE = 1048576         # from this message length on
    MIN_GRANT = 262144             # a stream's next piece of window: as much as it has sent so far, between these two
    MAX_GRANT = 8388608
    MAX_CONTINUATIONS = 8          # 9 x 16 KiB of headers are far beyond any metadata limit in use
    MAX_OUTBOUND_ACK = 1000        # answers to PING and SETTINGS that wait to be written
    MAX_SETTINGS = 32              # entries in one SETTINGS frame; six are defined
    RESET_BURST = 10000            # RST_STREAM frames: clients with tight deadlines send one per missed deadline, so the rate is
    RESET_RATE = 2000              # generous; a reset costs no more than the request before it, and its call is cancelled
    TOKENS = 10000                 # frames that carry nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, unknown): a burst
    TOKENS_PER_S = 5000            # that no client needs, and a rate whose handling costs about 1 ms of CPU per second
    MAX_BARREN = 1048576           # bytes per tick that neither open a call nor belong to one: whatever they are, nobody needs them
    TOKENS_PER_REQUEST = 8         # given back by useful traffic: a client may acknowledge what it gets
    TOKENS_PER_DATA = 4


cdef int http2_prepare(NativeCore* core) noexcept nogil:
    """Callbacks and options, shared by all sessions of a server.  0, or -1: no memory."""
    cdef nghttp2_session_callbacks* callbacks
    if nghttp2_session_callbacks_new(&core.callbacks) != 0 or nghttp2_option_new(&core.option) != 0:
        return -1
    callbacks = core.callbacks
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, http2_on_begin_frame)
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, http2_on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(callbacks, http2_on_header)
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, http2_on_frame)
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, http2_on_invalid_frame)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, http2_on_data)
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, http2_on_sent)
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, http2_on_close)
    nghttp2_session_callbacks_set_send_data_callback(callbacks, http2_on_send_data)
    nghttp2_option_set_no_auto_window_update(core.option, 1)
    nghttp2_option_set_no_closed_streams(core.option, 1)
    nghttp2_option_set_max_outbound_ack(core.option, MAX_OUTBOUND_ACK)
    nghttp2_option_set_max_settings(core.option, MAX_SETTINGS)
    nghttp2_option_set_stream_reset_rate_limit(core.option, RESET_BURST, RESET_RATE)
    nghttp2_option_set_max_continuations(core.option, MAX_CONTINUATIONS)
    return 0


cdef int http2_open(Conn* conn) noexcept nogil:
    """The session, with our SETTINGS and the connection window on their way.  0, or -1: no memory."""
    cdef NativeCore* core = conn.thread.core
    cdef nghttp2_settings_entry settings[4]
    if nghttp2_session_server_new3(&conn.session, core.callbacks, conn, core.option, &conn.thread.pieces.mem) != 0:
        return -1
    settings[0].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
    settings[0].value = <uint32_t>core.limits.max_streams
    settings[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
    settings[1].value = INITIAL_WINDOW
    settings[2].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
    settings[2].value = <uint32_t>core.limits.max_metadata
    settings[3].settings_id = NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES
    settings[3].value = 1
    conn.tokens = TOKENS
    conn.tokens_ns = conn.thread.now
    if nghttp2_submit_settings(conn.session, NGHTTP2_FLAG_NONE, settings, 4) != 0:
        return -1
    return nghttp2_session_set_local_window_size(conn.session, NGHTTP2_FLAG_NONE, 0, FIRST_CONN_WINDOW)


cdef int http2_feed(Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    """Bytes from the peer.  0, or -1: the connection cannot go on (what is queued may still be written)."""
    conn.barren += size
    if nghttp2_session_mem_recv(conn.session, data, size) != <ssize_t>size:
        return -1
    if conn.barren > MAX_BARREN:
        nghttp2_session_terminate_session(conn.session, NGHTTP2_ENHANCE_YOUR_CALM)
    return 0


cdef bint http2_over(Conn* conn) noexcept nogil:
    """Nothing more to read or write: the connection is done."""
    return not nghttp2_session_want_read(conn.session) and not nghttp2_session_want_write(conn.session)


# -- frames that come

cdef int32_t http2_cost(uint8_t kind) noexcept nogil:
    """Tokens of a frame by its type.  DATA and HEADERS are bounded otherwise; a SETTINGS makes us answer and may resize tables."""
    if kind == NGHTTP2_DATA or kind == NGHTTP2_HEADERS or kind == NGHTTP2_CONTINUATION:
        return 0
    return 4 if kind == NGHTTP2_SETTINGS else 1


cdef void http2_spend(Conn* conn, int32_t tokens) noexcept nogil:
    """Takes tokens; a connection without any is told to calm down and closed."""
    cdef int64_t earned
    conn.tokens -= tokens
    if conn.tokens >= 0:
        return
    earned = (conn.thread.now - conn.tokens_ns) * TOKENS_PER_S // NS_PER_S
    conn.tokens_ns = conn.thread.now
    conn.tokens = <int32_t>min(<int64_t>TOKENS, conn.tokens + earned)
    if conn.tokens < 0:
        nghttp2_session_terminate_session(conn.session, NGHTTP2_ENHANCE_YOUR_CALM)


cdef inline void http2_earn(Conn* conn, int32_t tokens) noexcept nogil:
    if conn.tokens < TOKENS:
        conn.tokens += tokens


cdef int http2_on_begin_frame(nghttp2_session* session, const nghttp2_frame_hd* head, void* user) noexcept nogil:
    cdef int32_t cost = http2_cost(head.type)
    if cost:
        http2_spend(<Conn*>user, cost)
    return 0


cdef int http2_on_invalid_frame(nghttp2_session* session, const nghttp2_frame* frame, int error, void* user) noexcept nogil:
    """Refused streams and frames that break the rules without ending the connection."""
    http2_spend(<Conn*>user, 1)
    return 0


cdef int http2_on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    cdef Conn* conn = <Conn*>user
    cdef Stream* st
    conn.headers_ns = conn.thread.now
    conn.header_stream = NULL
    if frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        return 0                                     # trailers of a request: nothing in them is for us
    st = stream_new(conn, frame.hd.stream_id)
    if st == NULL:
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_REFUSED_STREAM)
        return 0
    nghttp2_session_set_stream_user_data(session, frame.hd.stream_id, st)
    conn.header_stream = st
    return 0


cdef int http2_on_header(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_len,
                         const uint8_t* value, size_t value_len, uint8_t flags, void* user) noexcept nogil:
    cdef Conn* conn = <Conn*>user
    cdef Span key, text
    if conn.header_stream != NULL:
        key.ptr = name
        key.len = name_len
        text.ptr = value
        text.len = value_len
        grpc_header(conn.header_stream, key, text)
    return 0


cdef int http2_on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    cdef Conn* conn = <Conn*>user
    cdef Stream* st
    if frame.hd.type == NGHTTP2_HEADERS:
        conn.barren = 0
        conn.headers_ns = 0
        st = conn.header_stream
        conn.header_stream = NULL
        if st != NULL:
            grpc_headers_end(st)
            http2_earn(conn, TOKENS_PER_REQUEST)
        else:
            st = <Stream*>nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
    elif frame.hd.type == NGHTTP2_DATA:
        if frame.hd.length == 0 and not frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
            http2_spend(conn, 1)
        st = <Stream*>nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
    else:
        if frame.hd.type == NGHTTP2_SETTINGS:
            conn.greeted = 1
        elif frame.hd.type == NGHTTP2_PING and frame.hd.flags & NGHTTP2_FLAG_ACK:
            conn.ping_ns = 0 if conn.leaving == 0 else conn.ping_ns
            if conn.leaving == 1 and memcmp(frame.ping.opaque_data, BYE, 8) == 0:
                http2_goaway(conn)
        return 0
    if st != NULL and frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        grpc_request_end(st)
    return 0


cdef int http2_on_data(nghttp2_session* session, uint8_t flags, int32_t stream_id, const uint8_t* data, size_t size,
                       void* user) noexcept nogil:
    cdef Conn* conn = <Conn*>user
    cdef Stream* st = <Stream*>nghttp2_session_get_stream_user_data(session, stream_id)
    cdef Span span
    conn.barren = 0
    conn.withheld += size
    if http2_pressed(conn.thread.core) and (st == NULL or not st.granted):
        conn.thread.withheld = 1
    else:
        http2_give_back(conn)
    if st == NULL:
        return 0
    span.ptr = data
    span.len = size
    grpc_data(st, span)
    if st.message_len > INITIAL_WINDOW - GRPC_PREFIX and not st.answered:
        http2_window(st)
    return 0


cdef int http2_on_close(nghttp2_session* session, int32_t stream_id, uint32_t error, void* user) noexcept nogil:
    cdef Conn* conn = <Conn*>user
    cdef Stream* st = <Stream*>nghttp2_session_get_stream_user_data(session, stream_id)
    if st == NULL:
        return 0
    if st == conn.header_stream:
        conn.header_stream = NULL
    if error != NGHTTP2_NO_ERROR:
        atomic_bump64(&conn.thread.stats.resets, 1)
    nghttp2_session_set_stream_user_data(session, stream_id, NULL)
    stream_closed(st)
    return 0


# -- windows and the byte budget

cdef inline bint http2_pressed(NativeCore* core) noexcept nogil:
    """More request bytes are held than the budget allows."""
    return atomic_load64(&core.budget.used) - BUDGET_OPEN > core.limits.byte_budget


cdef void http2_give_back(Conn* conn) noexcept nogil:
    """Returns what was received to the connection's window (the update goes out when half of it is used up)."""
    nghttp2_session_consume_connection(conn.session, conn.withheld)
    conn.withheld = 0


cdef bint http2_may_grant(Stream* st, int64_t grant) noexcept nogil:
    """Within the budget; beyond it one stream per thread goes on, so that half-received messages never wait for each other and a
    message larger than the budget comes in too."""
    cdef IoThread* t = st.thread
    if atomic_load64(&t.core.budget.used) - BUDGET_OPEN + grant <= t.core.limits.byte_budget:
        return True
    if t.favoured == NULL:
        t.favoured = st
    return t.favoured == st


cdef void http2_received(Stream* st) noexcept nogil:
    """The stream wants no more windows: complete, answered or closed."""
    http2_wait(st, 0)
    if st.thread.favoured == st:
        st.thread.favoured = NULL
        st.thread.retry_ns = st.thread.now


cdef void http2_window(Stream* st) noexcept nogil:
    """Lets a long message go on: more window when less than half a grant is left, or a place among those that wait."""
    cdef nghttp2_session* session = st.conn.session
    cdef int64_t need = st.message_len - st.body_len
    cdef int64_t have = nghttp2_session_get_stream_local_window_size(session, st.id)
    cdef int64_t grant
    if have < 0 or need <= have or have >= MIN_GRANT // 2 or st.body == NULL:
        http2_wait(st, 0)
        return
    grant = min(need - have, max(<int64_t>MIN_GRANT, min(<int64_t>MAX_GRANT, <int64_t>st.body_len)))
    if not http2_may_grant(st, grant):
        http2_wait(st, 1)
        return
    http2_wait(st, 0)
    st.granted = 1
    body_charge(st.body, st.body_len + have + grant)
    http2_give_back(st.conn)
    nghttp2_submit_window_update(session, NGHTTP2_FLAG_NONE, st.id, <int32_t>grant)
    if st.message_len >= WIDE_MESSAGE and not st.conn.wide:
        st.conn.wide = 1
        nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, WIDE_CONN_WINDOW)
    io_dirty(st.conn)


cdef int64_t http2_window_left(Stream* st) noexcept nogil:
    """How much the client may send before we give it more: its connection may be the narrower one."""
    cdef nghttp2_session* session = st.conn.session
    return min(nghttp2_session_get_stream_local_window_size(session, st.id), nghttp2_session_get_local_window_size(session))


cdef void http2_wait(Stream* st, int32_t waits) noexcept nogil:
    st.thread.waiting += waits - st.waits
    st.waits = <uint8_t>waits


# -- answers

cdef void http2_respond(Stream* st, const nghttp2_nv* fields, size_t count, bint with_body) noexcept nogil:
    """Queues headers (with END_STREAM unless the reply follows)."""
    cdef nghttp2_data_provider provider
    cdef int rc
    st.answered = 1
    http2_received(st)
    body_free(st.body)
    st.body = NULL
    st.moved_ns = st.thread.now
    st.moved_mark = 0
    if with_body:
        provider.source.ptr = st
        provider.read_callback = http2_read_reply
        st.conn.reply_bytes += st.reply_len
        rc = nghttp2_submit_response(st.conn.session, st.id, fields, count, &provider)
    else:
        rc = nghttp2_submit_response(st.conn.session, st.id, fields, count, NULL)
    if rc != 0:
        nghttp2_submit_rst_stream(st.conn.session, NGHTTP2_FLAG_NONE, st.id, NGHTTP2_INTERNAL_ERROR)
    io_dirty(st.conn)


cdef void http2_refuse(Stream* st, const nghttp2_nv* status) noexcept nogil:
    """Not a gRPC request: an HTTP status alone."""
    st.code = UNKNOWN
    atomic_bump64(&st.thread.stats.errors, 1)
    http2_respond(st, status, 1, False)


cdef void http2_reset(Stream* st, uint32_t error) noexcept nogil:
    nghttp2_submit_rst_stream(st.conn.session, NGHTTP2_FLAG_NONE, st.id, error)
    io_dirty(st.conn)


cdef ssize_t http2_read_reply(nghttp2_session* session, int32_t stream_id, uint8_t* buffer, size_t room, uint32_t* flags,
                              nghttp2_data_source* source, void* user) noexcept nogil:
    """How much of the reply goes into the next frame; the bytes themselves are taken in http2_on_send_data."""
    cdef Stream* st = <Stream*>source.ptr
    cdef size_t left = st.reply_len - st.reply_sent
    flags[0] = NGHTTP2_DATA_FLAG_NO_COPY
    if left <= room:
        flags[0] = flags[0] | NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
        if nghttp2_submit_trailer(session, stream_id, &grpc_ok_trailer, 1) != 0:
            return NGHTTP2_ERR_CALLBACK_FAILURE
        return <ssize_t>left
    return <ssize_t>room


cdef int http2_on_send_data(nghttp2_session* session, nghttp2_frame* frame, const uint8_t* head, size_t size,
                            nghttp2_data_source* source, void* user) noexcept nogil:
    cdef Conn* conn = <Conn*>user
    cdef Stream* st = <Stream*>source.ptr
    cdef Out* out = &conn.thread.out
    if out_full(out):
        return NGHTTP2_ERR_WOULDBLOCK
    out_copy(out, head, 9)
    out_reply(out, st.reply + st.reply_sent, size)
    st.reply_sent += size
    conn.reply_bytes -= size
    http2_earn(conn, TOKENS_PER_DATA)
    conn.barren = 0
    return 0


cdef int http2_on_sent(nghttp2_session* session, const nghttp2_frame* frame, void* user) noexcept nogil:
    """An answer that ends its stream before the request has ended: tell the peer to stop sending (RFC 9113, 8.1)."""
    cdef Stream* st
    if frame.hd.type == NGHTTP2_HEADERS and frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        st = <Stream*>nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
        if st != NULL and not st.request_ended:
            nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR)
    return 0


# -- writing

cdef int http2_collect(Conn* conn) noexcept nogil:
    """Fills the thread's Out with what one system call may carry.  0, or -1: the connection cannot go on."""
    cdef Out* out = &conn.thread.out
    cdef const uint8_t* data
    cdef ssize_t size
    out_clear(out)
    while not out_full(out):
        size = nghttp2_session_mem_send(conn.session, &data)
        if size < 0:
            return -1
        if size == 0:
            return 0
        if <size_t>size > OUT_COPY - out.copy_len:
            return -1                                # a frame beyond 16 KiB that is not DATA: nghttp2 makes none
        out_copy(out, data, size)
    return 0


# -- leaving

cdef const char* BYE = "tfs-bye"               # with its final zero the eight bytes of a ping


cdef void http2_notice(Conn* conn) noexcept nogil:
    """First GOAWAY: no new calls, please; those on their way are still served.  The ping tells when the peer has read it."""
    conn.leaving = 1
    nghttp2_submit_shutdown_notice(conn.session)
    nghttp2_submit_ping(conn.session, NGHTTP2_FLAG_NONE, <const uint8_t*>BYE)
    conn.ping_ns = conn.thread.now
    io_dirty(conn)


cdef void http2_goaway(Conn* conn) noexcept nogil:
    """Final GOAWAY: names the last call that will be answered."""
    conn.leaving = 2
    nghttp2_submit_goaway(
        conn.session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(conn.session), NGHTTP2_NO_ERROR, NULL, 0)
    io_dirty(conn)


cdef void http2_ping(Conn* conn) noexcept nogil:
    conn.ping_ns = conn.thread.now
    nghttp2_submit_ping(conn.session, NGHTTP2_FLAG_NONE, NULL)
    io_dirty(conn)
