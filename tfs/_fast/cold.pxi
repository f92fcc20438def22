# cold.pxi: the calls that Python answers.
#
# Owns: ColdCall.  Must not know: what the methods mean.
# Strategy: the I/O thread lends the stream (STAGE_COLD); one ColdCall holds it until its one answer, which goes back as any other.

@cython.no_gc_clear                 # __dealloc__ needs `server`
cdef class ColdCall:
    """One call of a method other than Predict; see _fastpath.pyi."""
    cdef Stream* st                # NULL once answered
    cdef NativeServer server       # keeps the core alive until then
    cdef readonly str path
    cdef readonly bytes body
    cdef readonly object timeout_ns
    cdef readonly str peer
    cdef bint _cancelled

    @property
    def cancelled(self) -> bool:
        if self.st != NULL:
            self._cancelled = atomic_load32(&self.st.closed) != 0
        return self._cancelled

    def reply(self, body: bytes) -> None:
        cdef const uint8_t* data = body
        cdef size_t size = len(body)
        cdef uint8_t* out = NULL
        if self.st == NULL:
            raise RuntimeError(f"{self.path} has been answered already")
        if size >> 32 == 0:
            out = <uint8_t*>malloc(GRPC_PREFIX + size)
        if out == NULL:
            self.fail(RESOURCE_EXHAUSTED, "no memory for the answer")
            return
        grpc_put_prefix(out, size)
        memcpy(out + GRPC_PREFIX, data, size)
        self.st.code = OK
        self.st.reply = out
        self.st.reply_len = GRPC_PREFIX + size
        self._answer()

    def fail(self, code: int, message: str) -> None:
        cdef bytes text = message.encode("utf-8", "replace")
        if self.st == NULL:
            raise RuntimeError(f"{self.path} has been answered already")
        grpc_set_error(self.st, code, text, len(text))
        self._answer()

    cdef void _answer(self) noexcept:
        cdef Stream* st = self.st
        self._cancelled = atomic_load32(&st.closed) != 0
        self.st = NULL
        atomic_add64(&self.server.core.cold_count, -1)
        stream_complete(st)

    def __dealloc__(self):
        if self.st != NULL:
            grpc_set_error(self.st, INTERNAL, "the service gave no answer", 26)
            self._answer()


cdef ColdCall cold_call(NativeServer server, Stream* st):
    cdef ColdCall call = ColdCall.__new__(ColdCall)
    cdef Span path = server.core.routes[st.route].path
    call.st = st
    call.server = server
    call.path = (<char*>path.ptr)[:path.len].decode()
    call.body = (<char*>body_bytes(st.body))[:st.body_len]
    body_free(st.body)
    st.body = NULL
    call.timeout_ns = None if st.timeout_ns < 0 else max(0, st.started_ns + st.timeout_ns - now_ns())
    call.peer = st.peer.decode()
    return call
