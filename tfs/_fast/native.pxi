# native.pxi: the Python face of the native transport: settings, start and stop.
#
# Owns: NativeCore's creation and end; NativeServer.  Must not know: frames, messages.
# Strategy: everything is checked and allocated here, with the GIL; the threads then run on an immutable core.  Stopping goes
# drain (GOAWAY) -> stop the I/O threads -> stop the inflater -> free.  ColdCall keeps its server alive, so a late answer finds it.

cimport cython

HAVE_NATIVE = True

cdef int64_t NEVER_NS = INT64_MAX // 4

cdef enum:
    MAX_IO_THREADS = 256

PREDICT_PATH = "/tensorflow.serving.PredictionService/Predict"

# name -> (setting, nanoseconds or units per unit, default, least).  Names that begin with "grpc." are gRPC's own; defaults differ
# from gRPC's where its own would let a silent peer hold memory for minutes.
_ARGUMENTS = {
    "grpc.max_connection_age_ms": ("age_ns", 1_000_000, None, 1),
    "grpc.max_connection_age_grace_ms": ("age_grace_ns", 1_000_000, None, 0),
    "grpc.max_connection_idle_ms": ("idle_ns", 1_000_000, None, 1),
    "grpc.keepalive_time_ms": ("keepalive_time_ns", 1_000_000, 7_200_000, 1),
    "grpc.keepalive_timeout_ms": ("keepalive_timeout_ns", 1_000_000, 20_000, 1),
    # preface and SETTINGS, or one header block: 20 s is many round trips on the worst line
    "grpc.server_handshake_timeout_ms": ("handshake_ns", 1_000_000, 20_000, 1),
    # enough for any client on one connection; a stream that has sent nothing costs 400 bytes
    "grpc.max_concurrent_streams": ("max_streams", 1, 1000, 1),
    "grpc.max_receive_message_length": ("max_message_bytes", 1, None, 0),
    # gRPC's hard limit
    "grpc.max_metadata_size": ("max_metadata", 1, 16384, 0),
    # no progress of an upload, or of an answer that the client does not read: as long as the longest usual deadline
    "tfs.upload_stall_ms": ("upload_stall_ns", 1_000_000, 30_000, 1),
    "tfs.write_stall_ms": ("write_stall_ns", 1_000_000, 30_000, 1),
}


cdef class NativeServer:
    """gRPC over HTTP/2, and REST; see _fastpath.pyi."""
    cdef NativeCore* core
    cdef readonly object engine
    cdef readonly list ports
    cdef readonly list ignored_arguments
    cdef list _sockets
    cdef list _paths
    cdef list _texts               # what core.rest points to
    cdef bint _closed

    def __cinit__(self):
        self.core = <NativeCore*>calloc(1, sizeof(NativeCore))
        if self.core == NULL:
            raise MemoryError
        pthread_mutex_init(&self.core.lock, NULL)
        cond_init(&self.core.empty)
        cond_init(&self.core.inflate_work)
        self.core.cold_fd = -1
        self._sockets = []
        self._paths = []

    def __init__(self, engine: object, *, addresses: Sequence[str], io_threads: int, cold: Sequence[str], max_message_bytes: int,
                 byte_budget: int, max_connections: int, arguments: Mapping[str, int | str], processors: int = 0, start: bool = True) -> None:
        self.engine = engine
        self.ports = []
        if not 1 <= io_threads <= MAX_IO_THREADS:
            raise errors.InvalidArgument(f"io_threads must be between 1 and {MAX_IO_THREADS}, not {io_threads}")
        self.core.processors = processors or io_threads
        self._consume(engine)
        self._limit(arguments, max_message_bytes, byte_budget, max_connections)
        self._route([PREDICT_PATH, *cold])
        if http2_prepare(self.core) < 0:
            raise MemoryError
        self.core.cold_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        self._make_threads(io_threads)
        try:
            for address in addresses:
                self._listen(address)
            if start:
                self.start()
        except BaseException:
            self.close()
            raise

    cdef void _consume(self, engine) except *:
        if isinstance(engine, EchoEngine):
            transport_echo_consumer(&self.core.consumer, &(<EchoEngine>engine).state)
        elif isinstance(engine, Engine):
            (<Engine>engine).check_open()
            native_consumer(&self.core.consumer, (<Engine>engine).core)
        else:
            raise TypeError(f"engine must be an Engine, not {type(engine).__name__}")

    cdef void _limit(self, arguments, max_message_bytes, byte_budget, max_connections) except *:
        """Fills core.limits from the defaults, then from `arguments`."""
        cdef NativeLimits* limits = &self.core.limits
        values = {"max_message_bytes": max_message_bytes}
        for field, unit, default, _ in _ARGUMENTS.values():
            if field not in values:
                values[field] = NEVER_NS if default is None else default * unit
        self.ignored_arguments = [name for name in arguments if name not in _ARGUMENTS]
        for name in arguments:
            if name in _ARGUMENTS:
                field, unit, _, least = _ARGUMENTS[name]
                values[field] = native_argument(name, arguments[name], least, unit)
        limits.max_message_bytes = min(values["max_message_bytes"], 0xFFFFFFFF)
        limits.byte_budget = byte_budget
        limits.max_connections = max_connections
        limits.max_streams = min(values["max_streams"], 0x7FFFFFFF)
        limits.max_metadata = min(values["max_metadata"], 0x7FFFFFFF)
        limits.handshake_ns = values["handshake_ns"]
        limits.keepalive_time_ns = values["keepalive_time_ns"]
        limits.keepalive_timeout_ns = values["keepalive_timeout_ns"]
        limits.age_ns = values["age_ns"]
        limits.age_grace_ns = values["age_grace_ns"]
        limits.idle_ns = values["idle_ns"]
        limits.upload_stall_ns = values["upload_stall_ns"]
        limits.write_stall_ns = values["write_stall_ns"]
        shortest = min(value for name, value in values.items() if name.endswith("_ns") and value > 0)
        self.core.tick_every_ns = max(10 * NS_PER_MS, min(NS_PER_S, shortest // 4))

    cdef void _route(self, paths) except *:
        cdef int index = 0
        cdef bytes raw
        cdef char* copy
        self.core.routes = <Route*>calloc(len(paths), sizeof(Route))
        if self.core.routes == NULL:
            raise MemoryError
        for path in paths:
            raw = path.encode()
            copy = <char*>malloc(len(raw) + 1)
            if copy == NULL:
                raise MemoryError
            memcpy(copy, <char*>raw, len(raw) + 1)
            self.core.routes[index].path = span_text(copy)
            self.core.routes[index].cold = index > 0
            index += 1
            self.core.route_count = index

    cdef void _make_threads(self, int count) except *:
        cdef NativeCore* core = self.core
        cdef IoThread* t
        cdef int index
        core.budget = <Budget*>malloc(sizeof(Budget))
        core.threads = <IoThread*>calloc(count, sizeof(IoThread))
        if core.budget == NULL or core.threads == NULL:
            raise MemoryError
        core.budget.used = BUDGET_OPEN
        for index in range(count):
            t = &core.threads[index]
            t.kind = KIND_WAKE
            t.core = core
            pieces_open(&t.pieces)
            t.in_buffer = <uint8_t*>malloc(IN_BUFFER)
            t.out.copy = <uint8_t*>malloc(OUT_COPY)
            t.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
            t.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
            core.thread_count = index + 1
            # Edge-triggered and never read: every write is an edge, and a read per wake-up is saved.
            if t.in_buffer == NULL or t.out.copy == NULL or t.epoll_fd < 0 or t.wake_fd < 0 or epoll_set(
                    t.epoll_fd, EPOLL_CTL_ADD, t.wake_fd, EPOLLIN | EPOLLET, t) != 0:
                raise errors.TfsError("cannot make an I/O thread: no memory or no file descriptors left", RESOURCE_EXHAUSTED)

    cdef void _listen(self, str address) except *:
        sock = native_socket(address)
        if address.startswith("unix:"):
            self._paths.append(address[5:])
        self.ports.append(0 if address.startswith("unix:") else sock.getsockname()[1])
        self._accept_from(sock, False)

    cdef void _accept_from(self, sock, bint http1) except *:
        """`sock` is closed by `close`."""
        cdef Listener* listener = <Listener*>calloc(1, sizeof(Listener))
        self._sockets.append(sock)
        if listener == NULL:
            raise MemoryError
        listener.kind = KIND_LISTENER
        listener.fd = sock.fileno()
        listener.http1 = http1
        listener.next = self.core.listeners
        self.core.listeners = listener

    def listen_rest(self, sock: _socket.socket, *, status_lines: Sequence[bytes], headers: bytes, gzip_headers: bytes,
                    gzip_min_bytes: int, max_body_bytes: int, timeout_ns: int, max_connections: int, write_stall_ns: int,
                    keep_alive_ns: int, silent_ns: int) -> None:
        cdef RestPort* port = &self.core.rest
        cdef int code
        self._texts = [*status_lines, headers, gzip_headers]
        for code in range(17):
            port.status_lines[code] = bytes_span(self._texts[code])
        port.headers = bytes_span(self._texts[17])
        port.gzip_headers = bytes_span(self._texts[18])
        port.gzip_min_bytes = gzip_min_bytes
        port.max_body_bytes = max_body_bytes
        port.timeout_ns = timeout_ns
        port.max_connections = max_connections
        port.write_stall_ns = write_stall_ns or NEVER_NS
        port.keep_alive_ns = keep_alive_ns
        port.silent_ns = silent_ns or NEVER_NS
        self._accept_from(sock, True)

    def start(self) -> None:
        cdef NativeCore* core = self.core
        cdef int index
        if thread_start(&core.inflater, inflate_main, core, "tfs-inflate") != 0:
            raise errors.TfsError("cannot start the inflater thread", RESOURCE_EXHAUSTED)
        core.inflater_started = 1
        for index in range(core.thread_count):
            core.threads[index].started = thread_start(&core.threads[index].handle, io_main, &core.threads[index], "tfs-io") == 0
            if not core.threads[index].started:
                raise errors.TfsError("cannot start an I/O thread", RESOURCE_EXHAUSTED)

    def fileno(self) -> int:
        return self.core.cold_fd

    def take(self) -> list[ColdCall]:
        cdef Stream* st
        cdef Stream* following
        cdef list calls = []
        event_read(self.core.cold_fd)
        st = transport_take(&self.core.cold)
        while st != NULL:
            following = st.done_next
            calls.append(cold_call(self, st))
            st = following
        return calls

    def take_rest(self) -> list[tuple[int, bytes, bool]]:
        cdef Moved* moved = <Moved*>atomic_swap_ptr(&self.core.rest.moved, NULL)
        cdef Moved* following
        cdef list connections = []
        while moved != NULL:
            following = moved.next
            connections.append((moved.fd, <bytes>(<char*>http1_moved_bytes(moved))[:moved.size], moved.full != 0))
            free(moved)
            moved = following
        connections.reverse()
        return connections

    def rest_closed(self) -> None:
        atomic_add64(&self.core.rest.connections, -1)

    def drain(self, grace_s: float) -> None:
        cdef int index
        atomic_store64(&self.core.drain_until_ns, now_ns() + <int64_t>(max(0.0, min(grace_s, 1e9)) * NS_PER_S))
        if atomic_swap32(&self.core.draining, 1):
            return
        for sock in self._sockets:
            sock.shutdown(_socket.SHUT_RDWR)          # refuses at once; closed when no thread can be inside accept any more
        for index in range(self.core.thread_count):
            stream_wake(&self.core.threads[index])

    def wait_drained(self, timeout_s: float) -> bool:
        cdef NativeCore* core = self.core
        cdef int64_t until = now_ns() + <int64_t>(max(0.0, min(timeout_s, 1e9)) * NS_PER_S)
        with nogil:
            pthread_mutex_lock(&core.lock)
            while atomic_load64(&core.connections) > 0 and now_ns() < until:
                cond_wait_until(&core.empty, &core.lock, until)
            pthread_mutex_unlock(&core.lock)
        return atomic_load64(&core.connections) == 0

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        native_stop(self.core)
        self.take()                                   # nobody will: each is answered to nobody and freed
        for fd, _, _ in self.take_rest():
            _os.close(fd)
            self.rest_closed()
        for sock in self._sockets:
            sock.close()
        for path in self._paths:
            if _os.path.exists(path):
                _os.unlink(path)

    def stats(self) -> dict[str, int]:
        cdef IoStats total
        cdef const int64_t* one
        cdef int64_t* sum_ = <int64_t*>&total
        cdef size_t index
        cdef int thread
        cdef dict result
        memset(&total, 0, sizeof(IoStats))
        for thread in range(self.core.thread_count):
            one = <const int64_t*>&self.core.threads[thread].stats
            for index in range(sizeof(IoStats) // sizeof(int64_t)):
                sum_[index] += atomic_load64(one + index)
        result = total
        result["fewest_connections"] = min(
            atomic_load64(&self.core.threads[thread].connections) for thread in range(self.core.thread_count))
        result["connections"] = atomic_load64(&self.core.connections)
        result["rest_connections"] = atomic_load64(&self.core.rest.connections)
        result["request_bytes"] = atomic_load64(&self.core.budget.used) - BUDGET_OPEN
        result["cold_calls"] = atomic_load64(&self.core.cold_count)
        return result

    def __dealloc__(self):
        if self.core != NULL:
            native_stop(self.core)
            native_free(self.core)


# -- the engine as the one who answers

cdef Call* native_open(void* context) noexcept nogil:
    return call_new(<EngineCore*>context)


cdef void native_drop(Call* call) noexcept nogil:
    call_drop(call)


cdef void native_release(Call* call) noexcept nogil:
    """The last hold on the ticket is gone.  Any thread, perhaps after the server's end."""
    body_free(<Body*>(call.body.ptr - sizeof(Body)))
    call_free(call)


cdef size_t native_size(Call* call) noexcept nogil:
    stage_mark(call, PROFILE_WAKE)
    return response_size(call, call.engine.as_content)


cdef uint8_t* native_write(Call* call, uint8_t* out) noexcept nogil:
    out = response_write(call, call.engine.as_content, out)
    stage_mark(call, PROFILE_ENCODE)
    return out


cdef int native_text(Call* call, Text* out) noexcept nogil:
    cdef int code
    stage_mark(call, PROFILE_WAKE)
    code = json_encode(call, out)
    stage_mark(call, PROFILE_ENCODE)
    return code


cdef void native_consumer(Consumer* consumer, EngineCore* engine) noexcept nogil:
    consumer.context = engine
    consumer.open = native_open
    consumer.submit = engine_submit
    consumer.resume = engine_resume
    consumer.cancel = call_cancel
    consumer.drop = native_drop
    consumer.release = native_release
    consumer.size = native_size
    consumer.write = native_write
    consumer.submit_json = json_submit
    consumer.text = native_text


# -- settings

cdef int64_t native_argument(str name, value, int64_t least, int64_t unit) except -1:
    """A channel argument as a number of our units; -1 and INT_MAX mean "no limit", as with gRPC."""
    try:
        number = int(value)
    except ValueError:
        raise errors.InvalidArgument(f"channel argument {name} must be a whole number, not {value!r}") from None
    if number == -1 or number >= 0x7FFFFFFF:
        return NEVER_NS
    if number < least:
        raise errors.InvalidArgument(f"channel argument {name} must be at least {least}, not {value!r}")
    return number * unit


cdef void native_stop(NativeCore* core) noexcept:
    """Stops and joins all threads.  Idempotent.  The GIL is given up while waiting."""
    cdef int index
    with nogil:
        atomic_store32(&core.stopping, 1)
        for index in range(core.thread_count):
            if core.threads[index].started:
                stream_wake(&core.threads[index])
        for index in range(core.thread_count):
            if core.threads[index].started:
                pthread_join(core.threads[index].handle, NULL)
                core.threads[index].started = 0
        if core.inflater_started:
            core.inflater_started = 0
            pthread_mutex_lock(&core.lock)
            core.inflater_ends = 1
            pthread_cond_broadcast(&core.inflate_work)
            pthread_mutex_unlock(&core.lock)
            pthread_join(core.inflater, NULL)


cdef void native_free(NativeCore* core) noexcept nogil:
    cdef int index
    for index in range(core.thread_count):
        native_free_thread(&core.threads[index])
    native_free_streams(<Stream*>core.cold)
    native_free_moved(<Moved*>core.rest.moved)
    for index in range(core.route_count):
        free(<void*>core.routes[index].path.ptr)
    while core.listeners != NULL:
        native_free_listener(core)
    if core.callbacks != NULL:
        nghttp2_session_callbacks_del(core.callbacks)
    if core.option != NULL:
        nghttp2_option_del(core.option)
    if core.cold_fd >= 0:
        fd_close(core.cold_fd)
    if core.budget != NULL and atomic_add64(&core.budget.used, -BUDGET_OPEN) == 0:
        free(core.budget)
    pthread_mutex_destroy(&core.lock)
    pthread_cond_destroy(&core.empty)
    pthread_cond_destroy(&core.inflate_work)
    free(core.routes)
    free(core.threads)
    free(core)


cdef void native_free_listener(NativeCore* core) noexcept nogil:
    cdef Listener* listener = core.listeners
    core.listeners = listener.next
    free(listener)


cdef void native_free_thread(IoThread* t) noexcept nogil:
    cdef Stream* st
    cdef Conn* conn
    while t.fresh != NULL:                            # given to a thread that had ended, by one that was still accepting
        conn = <Conn*>t.fresh
        t.fresh = conn.next
        fd_close(conn.fd)
        free(conn)
    native_free_streams(<Stream*>t.done)              # answered by Python after the thread had ended
    stream_bury(t)
    while t.pool != NULL:
        st = t.pool
        t.pool = st.next
        free(st)
    if t.epoll_fd >= 0:
        fd_close(t.epoll_fd)
    if t.wake_fd >= 0:
        fd_close(t.wake_fd)
    pieces_close(&t.pieces)
    free(t.in_buffer)
    free(t.out.copy)


cdef void native_free_moved(Moved* moved) noexcept nogil:
    cdef Moved* following
    while moved != NULL:
        following = moved.next
        fd_close(moved.fd)
        free(moved)
        moved = following


cdef void native_free_streams(Stream* st) noexcept nogil:
    cdef Stream* following
    while st != NULL:
        following = st.done_next
        body_free(st.body)
        free(st.reply)
        free(st)
        st = following
