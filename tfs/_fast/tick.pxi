# tick.pxi: what time does to connections: handshakes, stalls, keepalive, age, idleness, the drain.
#
# Owns: when it is looked at what time does; the time-outs of gRPC's connections (REST's: http1_tick; deadlines of calls are the engine's).
# Must not know: frames, messages.
# Strategy: no timer per connection; each I/O thread looks at all of its own once per tick (a quarter of the shortest limit, 10 ms to
# 1 s), so limits are kept to within a tick.  Threads without connections do not tick.

cdef enum:
    MIN_PROGRESS = 1024            # bytes that count as progress of an upload or an answer: a byte per second is a stall

cdef int64_t PRESSURE_STALL_NS = NS_PER_S          # under pressure a large upload that stands still this long makes room for others
cdef int64_t GRANT_WAIT_NS = 10 * <int64_t>NS_PER_S   # longest wait for a window when the byte budget is used up
cdef int64_t DRAIN_TICK_NS = 50 * NS_PER_MS         # while leaving, so that the end is noticed soon
cdef int64_t NOTICE_WAIT_NS = NS_PER_S             # from the first GOAWAY to the final one, if the peer does not answer the ping


cdef void tick_thread(IoThread* t) noexcept nogil:
    cdef bint full = t.now >= t.tick_ns
    cdef Conn* conn = t.conns
    cdef Conn* following
    t.retry_ns = t.now + RETRY_NS
    t.withheld = 0
    if full:
        t.tick_ns = t.now + (min(t.core.tick_every_ns, DRAIN_TICK_NS) if t.draining else t.core.tick_every_ns)
        if not t.listening and not t.draining:
            tick_listen(t, True)
    while conn != NULL:
        following = conn.after
        tick_windows(t, conn)
        if full and conn.http1:
            http1_tick(t, conn)
        elif full:
            tick_conn(t, conn)
        conn = following
    io_turn(t)


cdef void tick_windows(IoThread* t, Conn* conn) noexcept nogil:
    """Gives to those who wait for the byte budget."""
    cdef Stream* st = conn.streams
    if conn.withheld > 0:
        if http2_pressed(t.core):
            t.withheld = 1
        else:
            http2_give_back(conn)
            io_dirty(conn)
    while st != NULL and t.waiting > 0:
        if st.waits:
            http2_window(st)
        st = st.after


cdef void tick_conn(IoThread* t, Conn* conn) noexcept nogil:
    cdef NativeLimits* limits = &t.core.limits
    cdef Stream* st
    conn.barren = 0
    if tick_expired(t, conn, limits):
        io_close(conn)
        return
    if conn.leaving == 1:
        if t.now - conn.ping_ns > NOTICE_WAIT_NS:
            http2_goaway(conn)
    elif conn.leaving == 2:
        if conn.open_streams == 0:
            io_dirty(conn)
    elif t.now - conn.opened_ns > tick_age(conn, limits.age_ns) or (conn.open_streams == 0 and t.now - conn.idle_ns > limits.idle_ns):
        tick_leave(conn, t.now + limits.age_grace_ns)
    elif conn.ping_ns == 0 and t.now - conn.heard_ns > limits.keepalive_time_ns:
        http2_ping(conn)
    st = conn.streams
    while st != NULL:
        tick_stream(t, st)
        st = st.after


cdef int64_t tick_age(Conn* conn, int64_t age_ns) noexcept nogil:
    """The age at which it leaves, a tenth more or less: connections that were opened together do not come back together."""
    return age_ns - age_ns // 10 + age_ns // 5 // 1024 * (conn.opened_ns // NS_PER_US % 1024)


cdef bint tick_expired(IoThread* t, Conn* conn, NativeLimits* limits) noexcept nogil:
    """A limit after which there is nobody to be polite to."""
    if not conn.greeted and t.now - conn.opened_ns > limits.handshake_ns:
        return True
    if conn.headers_ns and t.now - conn.headers_ns > limits.handshake_ns:
        return True
    if conn.writing and t.now - conn.sent_ns > limits.write_stall_ns:
        return True
    if conn.close_ns and t.now >= conn.close_ns:
        return True
    return conn.ping_ns != 0 and conn.leaving == 0 and t.now - conn.ping_ns > limits.keepalive_timeout_ns


cdef void tick_leave(Conn* conn, int64_t close_ns) noexcept nogil:
    """Starts the polite end of a connection."""
    if conn.close_ns == 0 or close_ns < conn.close_ns:
        conn.close_ns = close_ns
    if conn.leaving == 0:
        http2_notice(conn)


cdef void tick_stream(IoThread* t, Stream* st) noexcept nogil:
    """Ends an upload or an answer that stands still.  An upload that we hold up has all its time once it may go on."""
    cdef NativeLimits* limits = &t.core.limits
    cdef size_t moved = st.reply_sent if st.answered else st.body_len
    cdef bint held_up
    cdef int64_t patience
    if st.stage != STAGE_IDLE or not st.headers_done:
        return
    held_up = not st.answered and http2_window_left(st) < MIN_PROGRESS
    if moved - st.moved_mark >= MIN_PROGRESS or held_up != st.held_up:
        st.held_up = held_up
        st.moved_mark = moved
        st.moved_ns = t.now
        return
    patience = limits.upload_stall_ns
    if st.answered:
        patience = limits.write_stall_ns
    elif held_up:
        patience = GRANT_WAIT_NS
    elif st.message_len > INITIAL_WINDOW and (t.waiting > 0 or http2_pressed(t.core)):
        patience = PRESSURE_STALL_NS                 # also when what is left of the budget is merely too little for those who wait
    if t.now - st.moved_ns <= patience:
        return
    atomic_bump64(&t.stats.evicted, 1)
    if st.answered:
        http2_reset(st, NGHTTP2_CANCEL)
    elif held_up:
        grpc_refuse_numbers(
            st, "no room for a request of %lld bytes: the requests being received exceed %lld bytes", st.message_len, limits.byte_budget)
    else:
        grpc_refuse(st, CANCELLED, "the request made no progress")


# -- listeners and the drain

cdef void tick_listen(IoThread* t, bint listen) noexcept nogil:
    """Takes part in accepting, or stops doing so."""
    cdef Listener* listener = t.core.listeners
    t.listening = listen
    while listener != NULL:
        epoll_set(t.epoll_fd, EPOLL_CTL_ADD if listen else EPOLL_CTL_DEL, listener.fd, EPOLLIN | EPOLLEXCLUSIVE, listener)
        listener = listener.next


cdef void tick_drain(IoThread* t) noexcept nogil:
    """No new connections; every connection is asked to leave and closed when the grace ends."""
    cdef Conn* conn = t.conns
    cdef Conn* following
    if t.listening:
        tick_listen(t, False)
    t.draining = 1
    t.tick_ns = t.now
    while conn != NULL:
        following = conn.after
        if conn.http1:
            http1_leave(conn, t.core.drain_until_ns)
        else:
            tick_leave(conn, t.core.drain_until_ns)
        conn = following
    io_turn(t)
