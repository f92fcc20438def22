# counters.pxi: requests, latencies and run times, counted without a lock.
#
# Owns: ModelCounters and their shards; live counts of C objects in debug builds.  Must not know: how they are exposed.
# Strategy: one set of shards per model name, allocated when a thread first counts into it; a thread adds to its own shard with
# relaxed atomic adds (no other thread has that cache line, so they cost what plain adds cost); a snapshot sums the shards.
# Bucket limits are the reference's: 10 * 1.8^i microseconds, i = 0..32, and +Inf.

cdef extern from * nogil:
    """
    enum { TFS_LIVE_KINDS = 6 };
    #ifdef TFS_DEBUG
    static int64_t tfs_live[TFS_LIVE_KINDS];
    static inline void tfs_live_add(int kind, int n) { __atomic_add_fetch(&tfs_live[kind], (int64_t)n, __ATOMIC_RELAXED); }
    static inline int64_t tfs_live_count(int kind) { return __atomic_load_n(&tfs_live[kind], __ATOMIC_RELAXED); }
    static inline int tfs_live_on(void) { return 1; }
    #else
    static inline void tfs_live_add(int kind, int n) { (void)kind; (void)n; }
    static inline int64_t tfs_live_count(int kind) { (void)kind; return 0; }
    static inline int tfs_live_on(void) { return 0; }
    #endif
    static inline void tfs_count(int64_t* at, int64_t n) { __atomic_fetch_add(at, n, __ATOMIC_RELAXED); }
    /* A small number of its own for each thread, for shards and reader slots. */
    static int32_t tfs_threads_seen;
    static thread_local int32_t tfs_thread_index = -1;
    static inline int32_t tfs_thread_number(void) {
        if (tfs_thread_index < 0) tfs_thread_index = __atomic_fetch_add(&tfs_threads_seen, 1, __ATOMIC_RELAXED);
        return tfs_thread_index;
    }
    """
    void live_add "tfs_live_add"(int kind, int n) noexcept
    int64_t live_count "tfs_live_count"(int kind) noexcept
    bint live_on "tfs_live_on"() noexcept
    void count_add "tfs_count"(int64_t* at, int64_t n) noexcept
    int32_t thread_number "tfs_thread_number"() noexcept

cdef enum LiveKind:
    LIVE_CALL = 0
    LIVE_RESULT = 1
    LIVE_SERVABLE = 2
    LIVE_PLAN = 3
    LIVE_MAP = 4
    LIVE_BATCH = 5

LIVE_NAMES = ("calls", "results", "servables", "plans", "maps", "batches")

cdef enum:
    COUNTER_SHARDS = 16
    COUNTED_METHODS = 6
    COUNTED_CODES = 17
    LATENCY_BUCKETS = 34           # 33 limits and +Inf
    MAX_STRANGERS = 1000           # names never loaded that get counters of their own: a scan cannot grow memory
    MAX_STRANGER_BYTES = 256       # ... nor can long names

cdef struct Histogram:
    int64_t buckets[LATENCY_BUCKETS]
    int64_t sum_ns
    int64_t count

cdef struct CounterShard:
    int64_t requests[2][COUNTED_METHODS][COUNTED_CODES]
    Histogram latency[2][COUNTED_METHODS]
    Histogram run[COUNTED_METHODS]

cdef struct ModelCounters:
    ModelCounters* next
    CounterShard* shards[COUNTER_SHARDS]
    Span name                      # owned

cdef int64_t latency_limits_ns[LATENCY_BUCKETS - 1]


cdef void counters_init() noexcept nogil:
    cdef int i
    cdef double limit = 10.0
    for i in range(LATENCY_BUCKETS - 1):
        latency_limits_ns[i] = <int64_t>(limit * NS_PER_US)
        limit *= 1.8


cdef int latency_bucket(int64_t ns) noexcept nogil:
    """Index of the first limit above `ns` (binary search), the last index = +Inf."""
    cdef int low = 0, high = LATENCY_BUCKETS - 1, middle
    while low < high:
        middle = (low + high) // 2
        if ns < latency_limits_ns[middle]:
            high = middle
        else:
            low = middle + 1
    return low


cdef inline void histogram_add(Histogram* histogram, int64_t ns) noexcept nogil:
    count_add(&histogram.buckets[latency_bucket(ns)], 1)
    count_add(&histogram.sum_ns, ns)
    count_add(&histogram.count, 1)


cdef CounterShard* counters_shard(ModelCounters* counters) noexcept nogil:
    """This thread's shard, made at first use; NULL = no memory (then nothing is counted)."""
    cdef void* slot = &counters.shards[thread_number() % COUNTER_SHARDS]
    cdef CounterShard* shard = <CounterShard*>atomic_load_ptr(slot)
    if shard == NULL:
        shard = <CounterShard*>calloc(1, sizeof(CounterShard))
        if shard != NULL and not atomic_cas_ptr(slot, NULL, shard):
            free(shard)
            shard = <CounterShard*>atomic_load_ptr(slot)
    return shard


cdef ModelCounters* counters_of(EngineCore* engine, Span name, bint stranger) noexcept nogil:
    """The counters of a model name, made at first use.  Takes a lock: not for the data path of known models.

    `stranger`: the name is not (or not yet) a model; beyond MAX_STRANGERS, or when very long, such names share the counters of "".
    """
    cdef ModelCounters* at
    cdef Span nobody
    nobody.ptr = NULL
    nobody.len = 0
    pthread_mutex_lock(&engine.counters_lock)
    at = counters_find(engine.models, name)
    if at == NULL and stranger and (engine.strangers >= MAX_STRANGERS or name.len > MAX_STRANGER_BYTES):
        name = nobody
        at = counters_find(engine.models, name)
    if at == NULL:
        at = counters_new(engine, name, stranger)
    pthread_mutex_unlock(&engine.counters_lock)
    return at


cdef ModelCounters* counters_find(ModelCounters* at, Span name) noexcept nogil:
    while at != NULL and not span_equal(at.name, name):
        at = at.next
    return at


cdef ModelCounters* counters_new(EngineCore* engine, Span name, bint stranger) noexcept nogil:
    cdef ModelCounters* made = <ModelCounters*>calloc(1, sizeof(ModelCounters))
    cdef uint8_t* copy = <uint8_t*>malloc(name.len + 1)
    if made == NULL or copy == NULL:
        free(made)
        free(copy)
        return NULL
    if name.len:
        memcpy(copy, name.ptr, name.len)
    made.name.ptr = copy
    made.name.len = name.len
    made.next = engine.models
    engine.models = made
    engine.strangers += stranger
    return made


cdef void counters_free(EngineCore* engine) noexcept nogil:
    cdef ModelCounters* at = engine.models
    cdef ModelCounters* following
    cdef int i
    while at != NULL:
        following = at.next
        for i in range(COUNTER_SHARDS):
            free(at.shards[i])
        free(<void*>at.name.ptr)
        free(at)
        at = following
    engine.models = NULL


cdef void counters_request(ModelCounters* counters, int method, int entry, int code, int64_t latency_ns) noexcept nogil:
    """One finished request; the latency counts only for successes."""
    cdef CounterShard* shard = counters_shard(counters) if counters != NULL else NULL
    if shard == NULL or method == METHOD_WARMUP:
        return
    count_add(&shard.requests[entry][method][code if 0 <= code < COUNTED_CODES else UNKNOWN], 1)
    if code == OK and latency_ns >= 0:
        histogram_add(&shard.latency[entry][method], latency_ns)


cdef void counters_run(ModelCounters* counters, int method, int64_t run_ns) noexcept nogil:
    """One successful session run, per call that it served."""
    cdef CounterShard* shard = counters_shard(counters) if counters != NULL else NULL
    if shard != NULL and method != METHOD_WARMUP:
        histogram_add(&shard.run[method], run_ns)


# -- snapshots (with the GIL)

cdef object histogram_sum(list parts):
    """(counts per bucket, sum in microseconds, samples) over histograms given by address; None when nothing was counted."""
    cdef Histogram* histogram
    cdef list buckets = [0] * LATENCY_BUCKETS
    cdef int64_t sum_ns = 0, count = 0
    cdef int i
    for address in parts:
        histogram = <Histogram*><size_t>address
        for i in range(LATENCY_BUCKETS):
            buckets[i] += atomic_load64(&histogram.buckets[i])
        sum_ns += atomic_load64(&histogram.sum_ns)
        count += atomic_load64(&histogram.count)
    return (buckets, sum_ns / 1000.0, count) if count else None


cdef int counters_snapshot(ModelCounters* counters, dict requests, dict latency, dict run) except -1:
    """Adds one model's counters to the dicts of `Engine.counters`."""
    cdef str name = span_bytes(counters.name).decode("utf-8", "replace")
    cdef list shards = [<size_t>counters.shards[i] for i in range(COUNTER_SHARDS) if counters.shards[i] != NULL]
    cdef int entry, method, code
    cdef int64_t total
    for method in range(COUNTED_METHODS):
        found = histogram_sum([<size_t>&(<CounterShard*><size_t>shard).run[method] for shard in shards])
        if found is not None:
            run[name, method] = found
        for entry in range(2):
            found = histogram_sum([<size_t>&(<CounterShard*><size_t>shard).latency[entry][method] for shard in shards])
            if found is not None:
                latency[name, method, entry] = found
            for code in range(COUNTED_CODES):
                total = 0
                for shard in shards:
                    total += atomic_load64(&(<CounterShard*><size_t>shard).requests[entry][method][code])
                if total:
                    requests[name, method, entry, code] = total
    return 0


def live_handles():
    """Debug builds: live C objects by kind; all zero when idle and closed.  Release builds: {}."""
    if not live_on():
        return {}
    return {name: live_count(kind) for kind, name in enumerate(LIVE_NAMES)}
