# transport.pxi: the nouns of the native transport and what it asks of the system (sockets, epoll, zlib).
#
# Owns: layouts and who may write them; no behaviour.  Must not know: what a Predict means.
#
# Who touches what, the rule everything else follows:
#   * A Conn, its nghttp2 session (of gRPC) and its Streams belong to one IoThread for life; only that thread touches them.
#   * Exceptions, written by whoever answers a stream (a runner, the timer, Python, the inflater) between "handed out" and
#     "pushed on IoThread.done": Stream.reply, reply_len, long_answer, packing, code, body.  The push publishes them.
#   * A Stream is recycled when both are true: its HTTP/2 stream is closed (conn == NULL) and nobody outside may answer it
#     any more (stage == STAGE_IDLE).  So an answer to a stream that died finds the Stream, never freed memory.
#   * A request body belongs to the ticket once submitted and is freed by its `release`, which may be later than the server's end:
#     the byte budget it returns to is therefore counted by its own users (see Budget).

from tfs._nghttp2 cimport *

cdef extern from * nogil:
    """
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <fcntl.h>
    #include <zlib.h>

    static __thread void* tfs_io_current;        /* the IoThread this thread is, else NULL */

    static inline int tfs_epoll_set(int epoll_fd, int op, int fd, uint32_t events, void* ptr) {
        struct epoll_event event;
        event.events = events;
        event.data.ptr = ptr;
        return epoll_ctl(epoll_fd, op, fd, &event);
    }
    static inline void tfs_event_write(int fd) {
        uint64_t one = 1;
        while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {}
    }
    static inline void tfs_event_read(int fd) {
        uint64_t value;
        while (read(fd, &value, sizeof(value)) < 0 && errno == EINTR) {}
    }
    /* New sockets are non-blocking; -1 with errno as accept4 leaves it. */
    static inline int tfs_accept(int listener) {
        int one = 1, fd;
        do { fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC); } while (fd < 0 && errno == EINTR);
        if (fd >= 0) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));   /* a unix socket refuses: no matter */
        return fd;
    }
    /* After a failed accept: whether the queue is merely empty or a peer has gone again. */
    static inline int tfs_accept_again(void) {
        return errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS;
    }
    /* Bytes sent; 0 when the socket is full; -1 when the connection is gone. */
    static inline ssize_t tfs_send(int fd, struct iovec* parts, int count) {
        struct msghdr message;
        ssize_t sent;
        memset(&message, 0, sizeof(message));
        message.msg_iov = parts;
        message.msg_iovlen = count;
        do { sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT); } while (sent < 0 && errno == EINTR);
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)) return 0;
        return sent;
    }
    /* Bytes received; 0 when there are none now; -1 when the connection is gone or at its end. */
    static inline ssize_t tfs_receive(int fd, uint8_t* buffer, size_t size) {
        ssize_t got;
        do { got = recv(fd, buffer, size, MSG_DONTWAIT); } while (got < 0 && errno == EINTR);
        if (got == 0) return -1;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
        return got;
    }
    /* The peer as gRPC writes it: ipv4:1.2.3.4:5, ipv6:%5B::1%5D:5, unix: */
    static inline void tfs_peer(int fd, char* out, size_t size) {
        union { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; char room[128]; } name;
        socklen_t length = sizeof(name);
        char text[INET6_ADDRSTRLEN];
        if (fd < 0 || getpeername(fd, &name.any, &length) != 0) { snprintf(out, size, "unknown:"); return; }
        if (name.any.sa_family == AF_INET)
            snprintf(out, size, "ipv4:%s:%u", inet_ntop(AF_INET, &name.v4.sin_addr, text, sizeof(text)), ntohs(name.v4.sin_port));
        else if (name.any.sa_family == AF_INET6)
            snprintf(out, size, "ipv6:%%5B%s%%5D:%u", inet_ntop(AF_INET6, &name.v6.sin6_addr, text, sizeof(text)), ntohs(name.v6.sin6_port));
        else
            snprintf(out, size, "unix:");
    }
    /* A z_stream for gzip or zlib input; 0 on success. */
    static inline int tfs_inflate_init(z_stream* z) { return inflateInit2(z, 15 + 32); }
    /* One gzip member of `size` bytes in `out`, which has room for `room`; its length, or 0 when it did not work. */
    static inline size_t tfs_gzip(const uint8_t* data, size_t size, uint8_t* out, size_t room) {
        z_stream z;
        size_t made = 0;
        memset(&z, 0, sizeof(z));
        if (size >> 32 || room >> 32 || deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) return 0;
        z.next_in = (Bytef*)data;
        z.avail_in = (uInt)size;
        z.next_out = out;
        z.avail_out = (uInt)room;
        if (deflate(&z, Z_FINISH) == Z_STREAM_END) made = room - z.avail_out;
        deflateEnd(&z);
        return made;
    }
    /* The Date header's line for `second` since the epoch (RFC 9110, 5.6.7); its length.  strftime would ask the locale. */
    static inline size_t tfs_date_line(int64_t second, char* line, size_t size) {
        static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
        time_t at = (time_t)second;
        struct tm now;
        gmtime_r(&at, &now);
        return (size_t)snprintf(line, size, "date: %.3s, %02d %.3s %04d %02d:%02d:%02d GMT\\r\\n", days + 3 * now.tm_wday, now.tm_mday,
                                months + 3 * now.tm_mon, now.tm_year + 1900, now.tm_hour, now.tm_min, now.tm_sec);
    }
    static inline int64_t tfs_epoch_s(void) { return (int64_t)time(NULL); }
    """
    ctypedef struct iovec:
        void* iov_base
        size_t iov_len
    ctypedef union epoll_data_t:
        void* ptr
    ctypedef struct epoll_event:
        uint32_t events
        epoll_data_t data
    cdef enum:
        EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLET, EPOLLEXCLUSIVE
        EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLL_CLOEXEC
    void* io_current "tfs_io_current"
    int epoll_create1(int flags)
    int epoll_wait(int epoll_fd, epoll_event* events, int count, int timeout_ms)
    int epoll_set "tfs_epoll_set"(int epoll_fd, int op, int fd, uint32_t events, void* ptr) noexcept
    void event_write "tfs_event_write"(int fd) noexcept
    void event_read "tfs_event_read"(int fd) noexcept
    int socket_accept "tfs_accept"(int listener) noexcept
    bint socket_retry "tfs_accept_again"() noexcept
    ssize_t socket_send "tfs_send"(int fd, iovec* parts, int count) noexcept
    ssize_t socket_receive "tfs_receive"(int fd, uint8_t* buffer, size_t size) noexcept
    void socket_peer "tfs_peer"(int fd, char* out, size_t size) noexcept
    int fd_close "close"(int fd)

    ctypedef struct z_stream:
        uint8_t* next_in
        unsigned int avail_in
        uint8_t* next_out
        unsigned int avail_out
    cdef enum:
        Z_OK, Z_STREAM_END, Z_BUF_ERROR, Z_NO_FLUSH
    int inflate_init "tfs_inflate_init"(z_stream* z) noexcept
    int inflate(z_stream* z, int flush) noexcept
    int inflateReset(z_stream* z) noexcept
    int inflateEnd(z_stream* z) noexcept
    unsigned long compressBound(unsigned long size) noexcept
    size_t gzip_member "tfs_gzip"(const uint8_t* data, size_t size, uint8_t* out, size_t room) noexcept
    size_t date_line "tfs_date_line"(int64_t second, char* line, size_t size) noexcept
    int64_t epoch_s "tfs_epoch_s"() noexcept

cdef struct Conn
cdef struct Stream
cdef struct IoThread
cdef struct NativeCore

cdef struct Consumer:              # who answers Predict: the engine (native.pxi), or the echo of the tests (transport_echo.pxi)
    void* context
    Call* (*open)(void* context) noexcept nogil
    void (*submit)(Call* call) noexcept nogil
    void (*resume)(Call* call) noexcept nogil       # of a call that was kept
    void (*cancel)(Call* call) noexcept nogil
    void (*drop)(Call* call) noexcept nogil
    void (*release)(Call* call) noexcept nogil      # becomes Call.release: frees body and ticket
    size_t (*size)(Call* call) noexcept nogil       # once, before `write`; call.status tells when there is no reply
    uint8_t* (*write)(Call* call, uint8_t* out) noexcept nogil
    void (*submit_json)(Call* call) noexcept nogil  # the body is a REST predict body, the model spec stands in the call
    int (*text)(Call* call, Text* out) noexcept nogil   # its JSON reply; OK, or the code that call.status explains

cdef int64_t BUDGET_OPEN = INT64_MAX // 2

cdef struct Budget:                # bytes of requests held by the process
    int64_t used                   # atomic; BUDGET_OPEN is added while the server lives: who brings it to 0 frees the struct

cdef struct Body:                  # a malloc block: this header, then the request bytes
    Budget* budget
    int64_t charged                # what it counts against the budget, this header included
    size_t cap                     # room for bytes

cdef enum Stage:                   # who has the stream
    STAGE_IDLE = 0                 # the I/O thread alone
    STAGE_READY = 1                # on IoThread.ready: complete, not yet handed out
    STAGE_CALL = 2                 # a ticket is under way
    STAGE_COLD = 3                 # Python has it
    STAGE_INFLATE = 4              # the inflater has it: a compressed request, or an answer to compress

cdef enum Encoding:
    ENCODING_IDENTITY = 0
    ENCODING_GZIP = 1              # gzip or deflate: zlib tells them apart
    ENCODING_UNKNOWN = 2

cdef enum Packing:                 # of a REST answer
    PACK_NO = 0
    PACK_WANTED = 1                # the client takes gzip
    PACK_DONE = 2

cdef struct Stream:                # one HTTP/2 stream = one gRPC call; or one REST predict
    Stream* next                   # ready list, pool, or the list of what to free after the flush
    Stream* done_next              # completion list, cold list, inflate list
    Stream* before                 # in Conn.streams
    Stream* after
    Conn* conn                     # NULL once the HTTP/2 stream is closed
    IoThread* thread
    Call* call
    Body* body
    uint8_t* reply                 # malloc; of gRPC: prefix + message, or the percent-encoded text of an error; of REST: the body
    size_t reply_len
    size_t reply_sent
    size_t body_len
    size_t message_len             # from the gRPC prefix
    int64_t started_ns             # headers complete
    int64_t timeout_ns             # -1 = none
    int64_t moved_ns               # upload or reply last made progress
    size_t moved_mark              # what had been received or sent then
    size_t metadata                # bytes of the header list
    int32_t id
    int32_t route                  # index in NativeCore.routes, -1 = unknown
    int32_t stage                  # Stage
    int32_t code                   # of the answer
    int32_t closed                 # atomic: 1 = nobody waits for the answer any more
    uint8_t prefix[5]
    uint8_t prefix_len
    uint8_t encoding               # Encoding
    uint8_t method_ok              # :method POST
    uint8_t type_ok                # content-type application/grpc
    uint8_t headers_done
    uint8_t request_ended          # END_STREAM seen
    uint8_t answered               # a response was submitted: what still arrives is ignored
    uint8_t granted                # got more window than everybody
    uint8_t waits                  # counted in IoThread.waiting: wants a window
    uint8_t held_up                # at the last tick: it could not send
    char peer[64]                  # of a call for Python
    # -- REST only (rest.pxi, http1.pxi)
    int64_t version
    int32_t version_choice         # VersionChoice
    uint8_t packing                # Packing
    uint8_t head_sent
    uint8_t long_answer            # before it was packed
    size_t model_len               # the names lie behind the body's bytes
    size_t label_len

cdef struct Conn:
    int32_t kind                   # KIND_CONN; first: epoll hands out this pointer
    int fd                         # -1: the probe's
    IoThread* thread
    Conn* before                   # in IoThread.conns
    Conn* after
    Conn* next                     # IoThread.fresh, then IoThread.dead
    Conn* next_dirty
    nghttp2_session* session
    Stream* streams
    Stream* header_stream          # whose header block is being read
    uint8_t* pending               # malloc: bytes that the socket did not take
    size_t pending_len
    size_t pending_at
    size_t withheld                # bytes received, not yet given back to the connection's window
    size_t reply_bytes             # of answers not yet sent
    int64_t opened_ns
    int64_t heard_ns               # last bytes from the peer
    int64_t sent_ns                # last bytes taken by the socket
    int64_t idle_ns                # since when no stream is open
    int64_t ping_ns                # an unanswered keepalive ping was sent then, else 0
    int64_t headers_ns             # a header block is incomplete since then, else 0
    int64_t close_ns               # closed without mercy then
    int64_t tokens_ns
    int64_t barren                 # bytes since the last tick or useful frame
    int64_t inline_ns              # average time that a call took of the I/O thread
    int32_t tokens                 # left for frames that cost us and carry nothing
    int32_t open_streams
    uint8_t dirty
    uint8_t closed
    uint8_t writing                # EPOLLOUT is awaited, reading is paused
    uint8_t greeted                # the peer's SETTINGS have come
    uint8_t wide                   # the connection window has been widened
    uint8_t leaving                # 0, 1: shutdown notice sent, 2: final GOAWAY sent
    uint8_t broken                 # the peer broke the protocol: closed once what is queued has been written
    # -- REST only (http1.pxi)
    uint8_t http1
    uint8_t moving                 # Python takes it over once the answer is out; 2 = has taken it over
    uint8_t last                   # closed after the next answer
    uint8_t long_answers           # the last one was
    uint8_t* held                  # malloc: bytes that are no whole request yet, or that follow the one under way
    size_t held_len
    size_t held_cap
    size_t wanted                  # length of the request that `held` begins with; 0 = its head is not whole
    int64_t partial_ns             # since when the first request, or the rest of one, is awaited; 0 = between requests

cdef enum:
    OUT_PARTS = 64

cdef struct Out:                   # what one flush writes with one system call (out.pxi)
    uint8_t* copy                  # OUT_COPY bytes: frame headers, small frames
    size_t copy_len
    size_t total
    int count
    iovec parts[OUT_PARTS]

cdef struct IoStats:               # written by the thread, read by anybody (atomic_bump64)
    int64_t accepted
    int64_t refused_connections
    int64_t closed
    int64_t streams
    int64_t answered
    int64_t errors
    int64_t resets
    int64_t evicted
    int64_t inlined
    int64_t handed_over
    int64_t kept
    int64_t moved                  # REST connections given to Python

cdef struct IoThread:
    int32_t kind                   # KIND_WAKE
    int32_t sleeping               # atomic: 1 while it may be inside epoll_wait
    int epoll_fd
    int wake_fd
    NativeCore* core
    void* done                     # atomic stack of Stream*: answered elsewhere
    void* fresh                    # atomic stack of Conn*: accepted elsewhere
    int64_t connections            # atomic: what "least loaded" compares
    Stream* local_done             # answered on this thread
    Stream* ready_first
    Stream* ready_last
    Call* kept_first               # calls to run here when nothing shorter is to be done
    Call* kept_last
    Stream* pool
    Stream* favoured               # the one that gets windows beyond the byte budget
    Stream* grave                  # replies still named by `out`: freed after the flush
    Conn* dirty
    Conn* dead
    Conn* conns
    uint8_t* in_buffer
    Out out
    Pieces pieces                  # what its sessions allocate
    int64_t now
    int64_t turn_left_ns           # of the budget for inline calls in this turn
    int64_t kept_ns                # predicted time of the kept calls
    int64_t tick_ns                # next tick
    int64_t retry_ns               # next look at who waits for a window
    int64_t outstanding            # streams with a ticket or at the inflater
    int32_t ready_count
    int32_t pool_count
    int32_t waiting                # streams that want a window
    int32_t withheld               # a connection's window was not given back
    int32_t listening
    int32_t draining
    int32_t started
    int64_t date_s                 # the second that `date` names
    size_t date_len
    char date[48]                  # the Date header's line
    pthread_t handle
    IoStats stats

cdef enum EpollKind:
    KIND_CONN = 1
    KIND_WAKE = 2
    KIND_LISTENER = 3

cdef struct Listener:
    int32_t kind                   # KIND_LISTENER
    int fd
    int32_t http1                  # REST, else gRPC
    Listener* next

cdef struct Route:
    Span path
    int32_t cold                   # 0: Predict

cdef struct NativeLimits:          # defaults and reasons: native.pxi
    int64_t max_message_bytes
    int64_t byte_budget
    int64_t max_connections
    int64_t max_streams
    int64_t max_metadata
    int64_t handshake_ns
    int64_t keepalive_time_ns
    int64_t keepalive_timeout_ns
    int64_t age_ns
    int64_t age_grace_ns
    int64_t idle_ns
    int64_t upload_stall_ns
    int64_t write_stall_ns

cdef struct Moved:                 # a REST connection on its way to Python; its bytes lie behind this header
    Moved* next
    int fd
    int32_t full                   # there is no room for it: to be refused
    size_t size

cdef struct RestPort:              # settings of REST (texts: native.pxi keeps them), and what is counted
    Span status_lines[17]          # by code
    Span headers                   # header lines of every answer
    Span gzip_headers
    int64_t gzip_min_bytes         # shorter answers are never packed
    int64_t max_body_bytes         # 0 = any
    int64_t timeout_ns             # of a call; 0 = none
    int64_t max_connections
    int64_t write_stall_ns
    int64_t keep_alive_ns
    int64_t silent_ns              # a new connection on which nothing came for so long is Python's
    int64_t connections            # atomic: here and with Python
    void* moved                    # atomic stack of Moved*

cdef struct NativeCore:            # one server; immutable once its threads run, but for what is marked atomic or locked
    NativeLimits limits
    RestPort rest
    Consumer consumer
    Budget* budget
    IoThread* threads
    Listener* listeners
    Route* routes
    nghttp2_session_callbacks* callbacks
    nghttp2_option* option
    void* cold                     # atomic stack of Stream*: waiting for Python
    int64_t cold_count             # atomic: calls that Python has or will take
    int cold_fd
    int32_t thread_count
    int32_t processors             # for I/O threads and runners together
    int32_t route_count
    int32_t stopping               # atomic
    int32_t draining               # atomic
    int64_t drain_until_ns         # atomic
    int64_t connections            # atomic: all threads
    int64_t grpc_connections       # atomic: of gRPC alone
    int64_t tick_every_ns
    pthread_mutex_t lock           # guards the inflater's list and the two conditions
    pthread_cond_t empty           # connections came to 0
    pthread_cond_t inflate_work
    Stream* inflate_first
    Stream* inflate_last
    pthread_t inflater
    int32_t inflater_started       # the starter's own
    int32_t inflater_ends          # under `lock`


# -- stacks: many threads push, one takes all

cdef inline bint transport_push(void** head, Stream* st) noexcept nogil:
    """True when the stack was empty."""
    cdef void* old
    while True:
        old = atomic_load_ptr(head)
        st.done_next = <Stream*>old
        if atomic_cas_ptr(head, old, st):
            return old == NULL


cdef inline Stream* transport_take(void** head) noexcept nogil:
    """Everything, oldest first."""
    return transport_reverse(<Stream*>atomic_swap_ptr(head, NULL))


cdef inline Stream* transport_reverse(Stream* st) noexcept nogil:
    cdef Stream* following
    cdef Stream* result = NULL
    while st != NULL:
        following = st.done_next
        st.done_next = result
        result = st
        st = following
    return result
