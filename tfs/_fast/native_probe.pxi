# native_probe.pxi: one connection of the native transport without a socket or a thread: bytes in, bytes out.
#
# Owns: the entrance of the fuzz harness (tests/fuzz/fuzz_http2.py); _ProbePieces, the allocator alone.
# Must not know: TensorFlow, the engine (EchoEngine answers).
# Strategy: the same functions that an I/O thread calls in a turn, called by hand; at the end everything lent must have come back.


cdef void native_probe_turn(IoThread* t) noexcept nogil:
    """Turns, the inflater's work included, until there is nothing to do; a closed connection's memory is kept: the probe still looks at
    it."""
    cdef NativeCore* core = t.core
    cdef bint more = True
    while more:
        stream_take_done(t)
        native_probe_inflate(t)
        stream_run_ready(t)
        stream_take_done(t)
        io_flush_dirty(t)
        more = core.inflate_first != NULL or t.ready_first != NULL or t.dirty != NULL


cdef void native_probe_inflate(IoThread* t) noexcept nogil:
    cdef NativeCore* core = t.core
    cdef z_stream z
    while core.inflate_first != NULL:
        memset(&z, 0, sizeof(z))
        inflate_one(inflate_pop(core), &z, inflate_init(&z) == Z_OK)
        inflateEnd(&z)
        stream_take_done(t)


cdef bytes native_probe_written(Conn* conn):
    """Takes what the connection wants to write."""
    cdef bytes result = b""
    while conn.pending != NULL:
        result += (<char*>conn.pending)[conn.pending_at:conn.pending_len]
        free(conn.pending)
        conn.pending = NULL
        if conn.closed:
            break
        io_dirty(conn)
        native_probe_turn(conn.thread)
    return result


cdef bytes native_probe_finish(NativeServer server, Conn* conn):
    """Lets Python's calls and held calls answer, then closes."""
    cdef bytes written = b"", more = b"?"
    cdef IoThread* t = conn.thread
    while more:
        (<EchoEngine>server.engine).answer_held()
        for call in server.take():
            call.reply(call.body)
        native_probe_turn(t)
        more = native_probe_written(conn)
        written += more
    if not conn.closed:
        io_close(conn)
    native_probe_turn(t)
    io_free_dead(t)
    return written


cdef bytes native_probe_run(NativeServer server, object pieces, bint http1):
    global io_current
    cdef IoThread* t = server.core.threads
    cdef Conn* conn = io_conn_new(t, -1)
    cdef bytes piece, written = b""
    cdef const uint8_t* data
    if conn == NULL:
        raise MemoryError
    io_current = t
    t.now = now_ns()
    io_count(t, http1)
    conn.http1 = http1
    io_adopt(t, conn)
    native_probe_turn(t)
    for piece in pieces:
        written += native_probe_written(conn)
        if conn.closed:
            break
        data = piece
        io_feed(conn, data, len(piece))
        native_probe_turn(t)
    written += native_probe_finish(server, conn)
    io_current = NULL
    return written


def _probe_http2_feed(pieces: Sequence[bytes], *, max_message_bytes: int = 1 << 20, byte_budget: int = 1 << 22) -> bytes:
    """Feeds `pieces` to a fresh connection over an EchoEngine, one turn each, and closes it; returns what the server wrote.

    Raises AssertionError when a ticket or a byte of the budget is left over.  No socket, no thread but the caller's.
    """
    cdef EchoEngine echo = EchoEngine()
    cdef NativeServer server = NativeServer(
        echo, addresses=[], io_threads=1, cold=["/probe/Cold"], max_message_bytes=max_message_bytes, byte_budget=byte_budget,
        max_connections=1, arguments={}, start=False)
    cdef bytes written = native_probe_run(server, [bytes(piece) for piece in pieces], False)
    native_probe_empty(server, echo)
    return written


def _probe_http1_feed(pieces: Sequence[bytes], *, max_body_bytes: int = 0) -> tuple[bytes, bytes | None]:
    """The same for a REST connection; returns what the server wrote and, if Python was to take the connection over, the bytes for it."""
    cdef EchoEngine echo = EchoEngine()
    cdef NativeServer server = NativeServer(
        echo, addresses=[], io_threads=1, cold=[], max_message_bytes=1 << 20, byte_budget=1 << 22, max_connections=1, arguments={},
        start=False)
    cdef bytes written
    server.listen_rest(
        native_socket("127.0.0.1:0"), status_lines=[b"HTTP/1.1 %d \r\n" % (200 + code) for code in range(17)], headers=b"a: b\r\n",
        gzip_headers=b"c: d\r\n", gzip_min_bytes=4096, max_body_bytes=max_body_bytes, timeout_ns=0, max_connections=1, write_stall_ns=0,
        keep_alive_ns=NEVER_NS, silent_ns=0)
    try:
        written = native_probe_run(server, [bytes(piece) for piece in pieces], True)
        moved = server.take_rest()
        native_probe_empty(server, echo)
        if server.core.rest.connections != len(moved):
            raise AssertionError(f"left over: {server.core.rest.connections} connections")
    finally:
        server.close()
    return written, (moved[0][1] if moved else None)


cdef int native_probe_empty(NativeServer server, EchoEngine echo) except -1:
    """Raises AssertionError unless everything lent has come back."""
    if server.core.threads.outstanding or echo.live:
        raise AssertionError(f"left over: {server.core.threads.outstanding} outstanding, {echo.live} tickets")
    if server.core.budget.used != BUDGET_OPEN:
        raise AssertionError(f"left over: {server.core.budget.used - BUDGET_OPEN} bytes of the budget")
    return 0


cdef class _ProbePieces:
    """The allocator of nghttp2's sessions; every piece is filled with its number (modulo 256) and checked whenever it is touched again."""

    cdef Pieces pieces
    cdef dict held                 # number -> (address, size)

    def __cinit__(self):
        memset(&self.pieces, 0, sizeof(Pieces))
        pieces_open(&self.pieces)
        self.held = {}

    def __dealloc__(self):
        for address, _size in (self.held or {}).values():
            self.pieces.mem.free(<void*><size_t>address, &self.pieces)
        pieces_close(&self.pieces)

    cdef int fill(self, int number, void* address, size_t size) except -1:
        if address == NULL:
            raise MemoryError
        if <size_t>address % 16:
            raise AssertionError("not aligned")
        memset(address, number, size)
        self.held[number] = (<size_t>address, size)
        return 0

    cdef size_t address(self, int number, size_t limit) except? 0:
        """Where the piece is (0: there is none), once its first `limit` bytes are known to be untouched."""
        address, size = self.held.get(number, (0, 0))
        if (<uint8_t*><size_t>address)[:min(<size_t>size, limit)] != bytes([number & 255]) * min(size, limit):
            raise AssertionError(f"piece {number} was overwritten")
        return address

    def malloc(self, int number, size_t size) -> None:
        self.fill(number, self.pieces.mem.malloc(size, &self.pieces), size)

    def calloc(self, int number, size_t count, size_t size) -> None:
        cdef uint8_t* made = <uint8_t*>self.pieces.mem.calloc(count, size, &self.pieces)
        if made == NULL:
            raise MemoryError
        if made[:count * size].strip(b"\0"):
            raise AssertionError("calloc gave memory that is not zero")
        self.fill(number, made, count * size)

    def realloc(self, int number, size_t size) -> None:
        cdef size_t before = self.address(number, SIZE_MAX)
        cdef void* made = self.pieces.mem.realloc(<void*>before, size, &self.pieces)
        if made == NULL:
            raise MemoryError
        self.held[number] = (<size_t>made, min(size, self.held.get(number, (0, 0))[1]))
        self.address(number, size)
        self.fill(number, made, size)

    def free(self, int number) -> None:
        cdef size_t address = self.address(number, SIZE_MAX)
        self.held.pop(number, None)
        self.pieces.mem.free(<void*>address, &self.pieces)

    def kept(self) -> int:
        """Pieces in the lists."""
        return sum(self.pieces.kept[kind] for kind in range(PIECE_CLASSES))

    def most(self) -> int:
        """Pieces that a list keeps."""
        return PIECES_KEPT
