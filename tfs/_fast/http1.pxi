# http1.pxi: one REST connection's HTTP/1.1: whole requests out of bytes, answers into bytes, and what is left to Python.
#
# Owns: what a connection keeps between reads, the bytes of an answer, the way to Python.
# Must not know: the grammar of a head (http1_head.pxi), targets and bodies (rest.pxi), sockets and threads (io.pxi).
# Strategy: only requests of the plain form are read here, of at most HTTP1_BODY and whole within a moment.  Any other goes to uvicorn,
# connection and all, with the bytes that have come, and stays there: so every other limit and time-out is Python's.
# One request at a time is under way on a connection; what follows it waits in `held`.

cdef enum:
    HTTP1_BODY = 65536             # longest body; as much as byte_budget.py lets a connection hold unasked
    HTTP1_READ = 73728             # read at once: the longest request; a client that is further ahead of its answers is not read from
    HTTP1_REFUSED = 1024           # connections beyond the limit that wait for Python's refusal; more are closed

cdef int64_t HTTP1_PARTIAL_NS = NS_PER_S       # a request that is not whole by then is Python's, which has the patience and its limits
cdef int64_t HTTP1_CUT_NS = NS_PER_S           # after the grace: from the 503 until the connection is cut

cdef const char* HTTP1_STOPPING = "The server is shutting down"

# -- requests: bytes -> the ready list

cdef int http1_open(Conn* conn) noexcept nogil:
    conn.partial_ns = conn.thread.now
    return 0


cdef int64_t http1_next(Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    """Takes the request that `data` begins with: its length, 0 when it is not whole, -1 when it is not for us."""
    cdef RestPort* port = &conn.thread.core.rest
    cdef Http1Head head
    cdef RestRoute route
    cdef Stream* st
    cdef Span body
    cdef int found = http1_read_head(data, size, &head)
    if found == HTTP1_MORE:
        return 0
    if found == HTTP1_FOREIGN or head.body_len > HTTP1_BODY or not rest_route(head.target, &route):
        return -1
    if port.max_body_bytes and head.body_len > port.max_body_bytes:
        return -1
    conn.wanted = head.len + head.body_len
    if size < conn.wanted:
        return 0
    body.ptr = data + head.len
    body.len = head.body_len
    st = stream_new(conn, 0)
    if st == NULL:
        return -1
    if rest_take(st, &route, body) < 0:
        stream_closed(st)
        return -1
    conn.last |= head.last
    conn.partial_ns = 0
    st.packing = PACK_WANTED if head.accept_encoding.ptr != NULL and http1_takes_gzip(head.accept_encoding) else PACK_NO
    stream_ready(st)
    return <int64_t>conn.wanted


cdef int http1_keep(Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    """Appends to `held`.  0, or -1: no memory."""
    cdef uint8_t* grown
    cdef size_t cap
    if conn.held_len + size > conn.held_cap:
        cap = max(conn.held_len + size, conn.held_cap * 2)
        grown = <uint8_t*>realloc(conn.held, cap)
        if grown == NULL:
            return -1
        conn.held = grown
        conn.held_cap = cap
    memcpy(conn.held + conn.held_len, data, size)
    conn.held_len += size
    return 0


cdef void http1_drop(Conn* conn, size_t size) noexcept nogil:
    """Takes bytes off the front of `held`."""
    conn.held_len -= size
    conn.wanted = 0
    if conn.held_len:
        memmove(conn.held, conn.held + size, conn.held_len)
        return
    free(conn.held)
    conn.held = NULL
    conn.held_cap = 0


cdef int http1_feed(Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    """Bytes from the client.  0, or -1: no memory for them."""
    cdef int64_t used = 0
    cdef bint first = conn.held_len == 0 and conn.streams == NULL
    if first:                                        # nearly always, and nearly always it is one whole request
        used = http1_next(conn, data, size)
        if used < 0:
            http1_move(conn, data, size)
            return 0
        if used > 0:
            conn.wanted = 0
        elif conn.partial_ns == 0:
            conn.partial_ns = conn.thread.now
        if <size_t>used == size:
            return 0
    if http1_keep(conn, data + used, size - used) < 0:
        return -1
    if conn.streams != NULL and conn.held_len > HTTP1_READ:
        conn.moving = 1
        io_pause(conn)
    elif not first and conn.streams == NULL:
        http1_resume(conn)
    return 0


cdef void http1_resume(Conn* conn) noexcept nogil:
    """No request is under way: looks at what is held.  A paused connection always leaves here, so nobody need read from it again."""
    cdef int64_t used
    if conn.moving:
        http1_move(conn, NULL, 0)
        return
    if conn.held_len == 0 or conn.held_len < conn.wanted:
        return
    used = http1_next(conn, conn.held, conn.held_len)
    if used < 0:
        http1_move(conn, NULL, 0)
    elif used > 0:
        http1_drop(conn, <size_t>used)
    elif conn.partial_ns == 0:
        conn.partial_ns = conn.thread.now


# -- answers

cdef void http1_respond(Stream* st) noexcept nogil:
    """The answer that stands in the stream goes out with the turn, compressed first where the client likes that and it is long."""
    cdef IoThread* t = st.thread
    if st.code == CANCELLED and t.draining:
        rest_set_error(st, UNAVAILABLE, HTTP1_STOPPING, strlen(HTTP1_STOPPING))
    st.conn.long_answers = st.long_answer
    if rest_to_pack(st):
        inflate_submit(st)
        return
    atomic_bump64(&t.stats.answered if st.code == OK else &t.stats.errors, 1)
    if st.code == OK:
        st.conn.reply_bytes += st.reply_len          # stream_closed takes away what was not sent
    st.answered = 1
    body_free(st.body)
    st.body = NULL
    io_dirty(st.conn)


cdef inline void http1_span(Out* out, Span text) noexcept nogil:
    out_copy(out, text.ptr, text.len)


cdef void http1_write_head(Out* out, Stream* st) noexcept nogil:
    cdef RestPort* port = &st.thread.core.rest
    cdef char length[64]
    cdef const char* close = "connection: close\r\n" if st.conn.last else ""
    http1_span(out, port.status_lines[st.code])
    http1_span(out, http1_date(st.thread))
    http1_span(out, port.headers)
    if st.packing == PACK_DONE:
        http1_span(out, port.gzip_headers)
    out_copy(out, <const uint8_t*>length, snprintf(length, sizeof(length), "content-length: %zu\r\n%s\r\n", st.reply_len, close))


cdef Span http1_date(IoThread* t) noexcept nogil:
    """The Date header's line, made once per second."""
    cdef Span line
    cdef int64_t now = epoch_s()
    if now != t.date_s:
        t.date_s = now
        t.date_len = date_line(now, t.date, sizeof(t.date))
    line.ptr = <const uint8_t*>t.date
    line.len = t.date_len
    return line


cdef void http1_collect(Conn* conn) noexcept nogil:
    """Fills the thread's Out with what one system call may carry of the answer; the last of it ends the stream."""
    cdef Out* out = &conn.thread.out
    cdef Stream* st = conn.streams
    cdef size_t size
    out_clear(out)
    if st == NULL or not st.answered:
        return
    if not st.head_sent:
        http1_write_head(out, st)
        st.head_sent = 1
    size = min(st.reply_len - st.reply_sent, <size_t>OUT_ROUND)
    if size:
        out_reply(out, st.reply + st.reply_sent, size)
    st.reply_sent += size
    if st.code == OK:
        conn.reply_bytes -= size
    if st.reply_sent == st.reply_len:
        if conn.last:
            conn.leaving = 2
        stream_closed(st)


# -- leaving: for Python, or for good

cdef Moved* http1_moved(int fd, size_t size) noexcept nogil:
    """NULL = no memory."""
    cdef Moved* moved = <Moved*>malloc(sizeof(Moved) + size)
    if moved != NULL:
        moved.fd = fd
        moved.full = 0
        moved.size = size
    return moved


cdef inline uint8_t* http1_moved_bytes(Moved* moved) noexcept nogil:
    return <uint8_t*>moved + sizeof(Moved)


cdef void http1_give(NativeCore* core, Moved* moved) noexcept nogil:
    """Puts a connection on the list for Python and wakes the loop."""
    cdef void* old
    while True:
        old = atomic_load_ptr(&core.rest.moved)
        moved.next = <Moved*>old
        if atomic_cas_ptr(&core.rest.moved, old, moved):
            break
    if old == NULL:
        event_write(core.cold_fd)


cdef void http1_move(Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    """Gives the connection to Python with all bytes that have come and not been answered; it is closed here.  While the server leaves
    nobody would take it: 503."""
    cdef NativeCore* core = conn.thread.core
    cdef Moved* moved
    if conn.thread.draining:
        http1_refuse(conn)
        return
    moved = http1_moved(conn.fd, conn.held_len + size)
    if moved == NULL:
        io_close(conn)
        return
    if conn.held_len:
        memcpy(http1_moved_bytes(moved), conn.held, conn.held_len)
    if size:
        memcpy(http1_moved_bytes(moved) + conn.held_len, data, size)
    if conn.fd >= 0:
        epoll_set(conn.thread.epoll_fd, EPOLL_CTL_DEL, conn.fd, 0, conn)
    conn.fd = -1
    conn.moving = 2
    atomic_bump64(&conn.thread.stats.moved, 1)
    io_close(conn)
    http1_give(core, moved)


cdef void http1_refuse(Conn* conn) noexcept nogil:
    """Answers 503 instead of what is held, and closes."""
    cdef Stream* st = stream_new(conn, 0)
    conn.last = 1
    conn.moving = 0
    http1_drop(conn, conn.held_len)
    if st == NULL:
        io_close(conn)
        return
    rest_set_error(st, UNAVAILABLE, HTTP1_STOPPING, strlen(HTTP1_STOPPING))
    http1_respond(st)


cdef void http1_leave(Conn* conn, int64_t close_ns) noexcept nogil:
    """The server leaves: a connection between two requests is closed, another after its answer, at the latest at `close_ns`."""
    conn.last = 1
    conn.close_ns = close_ns
    if conn.streams != NULL or conn.held_len > 0:
        return
    if conn.pending != NULL:                         # the end of an answer that the client has not fetched yet
        conn.leaving = 2
        return
    io_read(conn)                                    # a request that has come already would be answered with a reset
    if conn.streams == NULL and conn.held_len == 0:
        io_close(conn)


cdef void http1_tick(IoThread* t, Conn* conn) noexcept nogil:
    """What time does to the connection."""
    cdef RestPort* port = &t.core.rest
    if conn.writing and t.now - conn.sent_ns > port.write_stall_ns:
        io_close(conn)
    elif conn.close_ns and t.now >= conn.close_ns:
        if conn.streams == NULL or conn.streams.stage != STAGE_CALL or t.now >= conn.close_ns + HTTP1_CUT_NS:
            io_close(conn)
        else:
            t.core.consumer.cancel(conn.streams.call)        # and its answer is a 503
    elif conn.streams != NULL or conn.writing:
        return
    elif conn.partial_ns:
        if t.now - conn.partial_ns > (HTTP1_PARTIAL_NS if conn.held_len else port.silent_ns):
            http1_move(conn, NULL, 0)
    elif t.now - conn.idle_ns > port.keep_alive_ns:
        io_close(conn)
