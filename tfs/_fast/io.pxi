# io.pxi: the I/O threads: epoll, sockets, the turn of the loop, hand-overs between threads.
#
# Owns: IoThread, the life of Conn, when what runs; which of the two protocols a connection speaks.
# Must not know: frames (http2.pxi), requests of HTTP/1.1 (http1.pxi), messages (grpc.pxi, rest.pxi).
# Strategy: one turn = read every ready socket once -> take what other threads answered -> hand out the complete requests -> write
# every touched connection once.  So a burst of small calls costs one read and one write.

cdef enum:
    IN_BUFFER = 131072             # read per connection and turn; one buffer per thread, so an idle connection holds none
    EVENTS = 256                   # per epoll_wait
    ACCEPT_BURST = 64              # connections accepted per turn
    RETRY_NS = 5 * NS_PER_MS       # how often those who wait for a window are looked at


# -- connections

cdef inline void io_dirty(Conn* conn) noexcept nogil:
    """Something is to be written at the end of the turn."""
    if not conn.dirty:
        conn.dirty = 1
        conn.next_dirty = conn.thread.dirty
        conn.thread.dirty = conn


cdef Conn* io_conn_new(IoThread* t, int fd) noexcept nogil:
    """NULL = no memory."""
    cdef Conn* conn = <Conn*>calloc(1, sizeof(Conn))
    if conn == NULL:
        return NULL
    conn.kind = KIND_CONN
    conn.fd = fd
    conn.thread = t
    return conn


cdef inline int io_open(Conn* conn) noexcept nogil:
    return http1_open(conn) if conn.http1 else http2_open(conn)


cdef void io_adopt(IoThread* t, Conn* conn) noexcept nogil:
    """The connection joins its thread."""
    conn.opened_ns = conn.heard_ns = conn.sent_ns = conn.idle_ns = t.now
    conn.after = t.conns
    if t.conns != NULL:
        t.conns.before = conn
    t.conns = conn
    if io_open(conn) < 0 or t.draining or (
            conn.fd >= 0 and epoll_set(t.epoll_fd, EPOLL_CTL_ADD, conn.fd, EPOLLIN, conn) != 0):
        io_close(conn)
        return
    atomic_bump64(&t.stats.accepted, 1)
    io_dirty(conn)


cdef void io_close(Conn* conn) noexcept nogil:
    """Ends the connection at once; its memory goes at the end of the turn.  Never from within an nghttp2 callback."""
    cdef IoThread* t = conn.thread
    if conn.closed:
        return
    conn.closed = 1
    while conn.streams != NULL:
        stream_closed(conn.streams)
    if conn.session != NULL:
        nghttp2_session_del(conn.session)
        conn.session = NULL
    if conn.fd >= 0:
        fd_close(conn.fd)
    if conn.before != NULL:
        conn.before.after = conn.after
    else:
        t.conns = conn.after
    if conn.after != NULL:
        conn.after.before = conn.before
    conn.next = t.dead
    t.dead = conn
    atomic_bump64(&t.stats.closed, 1)
    io_uncount(t, conn.http1, conn.moving == 2)


cdef bint io_count(IoThread* t, bint http1) noexcept nogil:
    """One connection more; False when its protocol has too many."""
    cdef NativeCore* core = t.core
    atomic_add64(&t.connections, 1)
    atomic_add64(&core.connections, 1)
    if http1:
        return atomic_add64(&core.rest.connections, 1) <= core.rest.max_connections
    return atomic_add64(&core.grpc_connections, 1) <= core.limits.max_connections


cdef void io_uncount(IoThread* t, bint http1, bint moved) noexcept nogil:
    """One connection less (`moved`: here, but not in the count of REST, which goes on with Python); the last one tells who waits for the
    drain."""
    cdef NativeCore* core = t.core
    atomic_add64(&t.connections, -1)
    if not http1:
        atomic_add64(&core.grpc_connections, -1)
    elif not moved:
        atomic_add64(&core.rest.connections, -1)
    if atomic_add64(&core.connections, -1) == 0:
        pthread_mutex_lock(&core.lock)
        pthread_cond_broadcast(&core.empty)
        pthread_mutex_unlock(&core.lock)


cdef void io_free_dead(IoThread* t) noexcept nogil:
    cdef Conn* conn
    while t.dead != NULL:
        conn = t.dead
        t.dead = conn.next
        free(conn.pending)
        free(conn.held)
        free(conn)


cdef void io_read(Conn* conn) noexcept nogil:
    cdef IoThread* t = conn.thread
    cdef ssize_t got = socket_receive(conn.fd, t.in_buffer, HTTP1_READ if conn.http1 else IN_BUFFER)
    if got < 0:
        io_close(conn)
    elif got > 0:
        io_feed(conn, t.in_buffer, <size_t>got)


cdef void io_feed(Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    conn.heard_ns = conn.thread.now
    if conn.leaving == 0:
        conn.ping_ns = 0                              # any bytes prove that the peer lives
    if (http1_feed(conn, data, size) if conn.http1 else http2_feed(conn, data, size)) < 0:
        conn.broken = 1
    if not conn.closed:
        io_dirty(conn)


cdef void io_want_write(Conn* conn, uint8_t writing) noexcept nogil:
    """A peer that does not read is not read from either: what it makes us queue stays bounded."""
    if conn.writing == writing:
        return
    conn.writing = writing
    conn.sent_ns = conn.thread.now
    if conn.fd >= 0:
        epoll_set(conn.thread.epoll_fd, EPOLL_CTL_MOD, conn.fd, EPOLLOUT if writing else EPOLLIN, conn)


cdef void io_pause(Conn* conn) noexcept nogil:
    """Reads no more of a client that has sent too much ahead: its connection moves to Python once the answer is out."""
    if conn.fd >= 0 and not conn.writing:
        epoll_set(conn.thread.epoll_fd, EPOLL_CTL_MOD, conn.fd, 0, conn)


cdef void io_keep(Conn* conn, Out* out, size_t sent) noexcept nogil:
    """Keeps what the socket did not take: at most one round, copied, because the reply may be freed before it is sent."""
    cdef size_t left = out.total - sent
    cdef size_t skip = sent
    cdef size_t at = 0
    cdef int index
    if conn.pending != NULL:
        conn.pending_at += sent
        return
    conn.pending = <uint8_t*>malloc(left)
    if conn.pending == NULL:
        conn.broken = 1
        return
    conn.pending_at = 0
    conn.pending_len = left
    for index in range(out.count):
        if skip >= out.parts[index].iov_len:
            skip -= out.parts[index].iov_len
            continue
        memcpy(conn.pending + at, <uint8_t*>out.parts[index].iov_base + skip, out.parts[index].iov_len - skip)
        at += out.parts[index].iov_len - skip
        skip = 0


cdef int io_gather(Conn* conn) noexcept nogil:
    """What to write next into the thread's Out: kept bytes first.  0, or -1: the connection cannot go on."""
    cdef Out* out = &conn.thread.out
    if conn.pending == NULL:
        if not conn.http1:
            return http2_collect(conn)
        http1_collect(conn)
        return 0
    out.copy_len = 0
    out.count = 1
    out.total = conn.pending_len - conn.pending_at
    out.parts[0].iov_base = conn.pending + conn.pending_at
    out.parts[0].iov_len = out.total
    return 0


cdef void io_flush(IoThread* t, Conn* conn) noexcept nogil:
    """Writes until nothing is left or the socket is full."""
    cdef Out* out = &t.out
    cdef ssize_t sent
    cdef bint more = True
    while more:
        if io_gather(conn) < 0:
            conn.broken = 1
            break
        more = conn.pending != NULL or out_full(out)
        if out.total == 0:
            break
        sent = socket_send(conn.fd, out.parts, out.count) if conn.fd >= 0 else 0
        if sent < 0:
            io_close(conn)
            break
        if sent > 0:
            conn.sent_ns = t.now
        if <size_t>sent < out.total:
            io_keep(conn, out, <size_t>sent)
            io_want_write(conn, 1)
            break
        free(conn.pending)
        conn.pending = NULL
        stream_bury(t)
    stream_bury(t)
    if conn.closed or (conn.pending != NULL and not conn.broken):
        return
    io_want_write(conn, 0)
    if conn.broken or (conn.leaving == 2 and conn.open_streams == 0) or (not conn.http1 and http2_over(conn)):
        io_close(conn)
    elif conn.http1 and conn.streams == NULL:
        http1_resume(conn)


cdef void io_flush_dirty(IoThread* t) noexcept nogil:
    cdef Conn* conn = t.dirty
    cdef Conn* following
    t.dirty = NULL
    while conn != NULL:
        following = conn.next_dirty
        conn.dirty = 0
        if not conn.closed:
            io_flush(t, conn)
        conn = following


# -- the loop

cdef void io_turn(IoThread* t) noexcept nogil:
    """Everything between two looks at the sockets.  Answers do not wait for the calls that were kept: those run after the flush."""
    stream_take_done(t)
    stream_run_ready(t)
    stream_take_done(t)
    io_flush_dirty(t)
    if t.kept_first != NULL:
        stream_run_kept(t)
        stream_take_done(t)
        io_flush_dirty(t)
    io_free_dead(t)


cdef int io_timeout_ms(IoThread* t) noexcept nogil:
    """How long epoll_wait may sleep; sets `sleeping` first, so that who pushes afterwards wakes it."""
    cdef int64_t until = t.tick_ns
    atomic_store32(&t.sleeping, 1)
    atomic_fence()
    if (atomic_load_ptr(&t.done) != NULL or atomic_load_ptr(&t.fresh) != NULL or t.local_done != NULL or t.ready_first != NULL
            or t.kept_first != NULL or t.dirty != NULL):
        return 0
    if atomic_load32(&t.core.stopping) or atomic_load32(&t.core.draining) != t.draining:
        return 0 if t.conns != NULL or not t.draining else 50
    if t.conns == NULL and t.listening:
        return -1
    if t.waiting or t.withheld:
        until = min(until, t.retry_ns)
    return <int>max(<int64_t>0, (until - t.now + NS_PER_MS - 1) // NS_PER_MS)


cdef void io_event(IoThread* t, epoll_event* event) noexcept nogil:
    cdef int32_t kind = (<int32_t*>event.data.ptr)[0]
    cdef Conn* conn
    if kind == KIND_LISTENER:
        io_accept(t, <Listener*>event.data.ptr)
    elif kind == KIND_CONN:
        conn = <Conn*>event.data.ptr
        if conn.closed:
            return
        if event.events & EPOLLOUT:
            io_dirty(conn)
        if not conn.writing:
            io_read(conn)
        elif event.events & (EPOLLERR | EPOLLHUP):
            io_close(conn)


cdef void* io_main(void* argument) noexcept nogil:
    """The body of an I/O thread."""
    global io_current
    cdef IoThread* t = <IoThread*>argument
    cdef epoll_event events[EVENTS]
    cdef int count, index
    io_current = t
    denormals_flush()
    go_first()
    t.now = now_ns()
    while True:
        count = epoll_wait(t.epoll_fd, events, EVENTS, io_timeout_ms(t))
        atomic_store32(&t.sleeping, 0)
        t.now = now_ns()
        for index in range(count):
            io_event(t, &events[index])
        io_take_fresh(t)
        io_turn(t)
        if t.now >= t.tick_ns or (t.now >= t.retry_ns and (t.waiting or t.withheld)):
            tick_thread(t)
        if atomic_load32(&t.core.draining) and not t.draining:
            tick_drain(t)
        if atomic_load32(&t.core.stopping) and io_stopped(t):
            return NULL


cdef bint io_stopped(IoThread* t) noexcept nogil:
    """Closes what is open; True when nothing outside can answer to this thread any more (but Python, which native.pxi cleans up after)."""
    t.draining = 1
    while t.conns != NULL:
        io_close(t.conns)
    io_turn(t)
    return t.outstanding == 0 and atomic_load_ptr(&t.fresh) == NULL and t.ready_first == NULL and t.kept_first == NULL


# -- accepting

cdef IoThread* io_least_loaded(NativeCore* core) noexcept nogil:
    cdef IoThread* best = core.threads
    cdef int index
    for index in range(1, core.thread_count):
        if atomic_load64(&core.threads[index].connections) < atomic_load64(&best.connections):
            best = &core.threads[index]
    return best


cdef void io_accept(IoThread* t, Listener* listener) noexcept nogil:
    cdef int fd, turn
    if t.draining:
        return
    for turn in range(ACCEPT_BURST):
        fd = socket_accept(listener.fd)
        if fd >= 0:
            io_accepted(t, listener, fd)
            continue
        if not socket_retry():
            tick_listen(t, False)                     # no descriptors left: look again at the next tick, do not spin
        return


cdef void io_accepted(IoThread* t, Listener* listener, int fd) noexcept nogil:
    """A new connection goes to the least loaded thread, or is refused: gRPC's are closed, REST's answered by Python."""
    cdef IoThread* home = io_least_loaded(t.core)
    cdef bint room = io_count(home, listener.http1)
    cdef Conn* conn = io_conn_new(home, fd) if room else NULL
    cdef Moved* moved = NULL
    if conn != NULL:
        conn.http1 = <uint8_t>listener.http1
        if home == t:
            io_adopt(t, conn)
        else:
            io_give(home, conn)
        return
    atomic_bump64(&t.stats.refused_connections, 1)
    if listener.http1 and atomic_load64(&t.core.rest.connections) <= t.core.rest.max_connections + HTTP1_REFUSED:
        moved = http1_moved(fd, 0)
    io_uncount(home, listener.http1, moved != NULL)
    if moved == NULL:
        fd_close(fd)
        return
    moved.full = 1
    http1_give(t.core, moved)


cdef void io_give(IoThread* home, Conn* conn) noexcept nogil:
    cdef void* old
    while True:
        old = atomic_load_ptr(&home.fresh)
        conn.next = <Conn*>old
        if atomic_cas_ptr(&home.fresh, old, conn):
            break
    stream_wake(home)


cdef void io_take_fresh(IoThread* t) noexcept nogil:
    cdef Conn* conn
    cdef Conn* following
    if atomic_load_ptr(&t.fresh) == NULL:
        return
    conn = <Conn*>atomic_swap_ptr(&t.fresh, NULL)
    while conn != NULL:
        following = conn.next
        io_adopt(t, conn)
        conn = following
