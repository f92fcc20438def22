# out.pxi: what one flush of a connection writes: pieces copied into one buffer, and pointers to long answers.
#
# Owns: the filling of Out and its limits.  Must not know: frames, HTTP, sockets.

cdef enum:
    OUT_COPY = 65536               # small pieces of one write
    OUT_ROOM = 17408               # kept free for one frame that nghttp2 makes (16 KiB + header + slack)
    OUT_ROUND = 524288             # bytes per system call, and what a full socket may make us keep per connection
    COPY_BELOW = 4096              # answers up to here are copied; longer ones are pointed to


cdef inline void out_clear(Out* out) noexcept nogil:
    out.copy_len = 0
    out.total = 0
    out.count = 0


cdef inline bint out_full(Out* out) noexcept nogil:
    return out.copy_len > OUT_COPY - OUT_ROOM or out.count > OUT_PARTS - 3 or out.total >= OUT_ROUND


cdef void out_copy(Out* out, const uint8_t* data, size_t size) noexcept nogil:
    """Copies; the caller has left room."""
    cdef uint8_t* at = out.copy + out.copy_len
    cdef iovec* last = &out.parts[out.count - 1]
    memcpy(at, data, size)
    out.copy_len += size
    out.total += size
    if out.count > 0 and <uint8_t*>last.iov_base + last.iov_len == at:
        last.iov_len += size
        return
    out.parts[out.count].iov_base = at
    out.parts[out.count].iov_len = size
    out.count += 1


cdef void out_reply(Out* out, const uint8_t* data, size_t size) noexcept nogil:
    """A piece of an answer, which stays where it is until the write is over."""
    if size <= COPY_BELOW:
        out_copy(out, data, size)
        return
    out.parts[out.count].iov_base = <void*>data
    out.parts[out.count].iov_len = size
    out.count += 1
    out.total += size
