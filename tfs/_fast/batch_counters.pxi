# batch_counters.pxi: what the batcher counts: the reference's histograms, and per model and signature what an operator needs to choose
# the numbers.
#
# Owns: BatchCounters, one per pool; its lock.  Must not know: queues, calls.
# Strategy: a batch thread adds a whole batch under one lock; what is counted per call at the door lies in the batcher, under the
# batcher's lock.  As in the reference a sample counts in the first bucket whose limit lies above it (prometheus's "le" is "<" here).

cdef enum:
    SIZE_LIMITS = 14               # 2^0 .. 2^13
    QUEUING_LIMITS = 52            # 100 * 1.2^i microseconds
    BATCH_PADDINGS = 1024          # batch sizes that get a padding histogram; later ones are not recorded (without
#                                    allowed_batch_sizes every size is its own label)

cdef struct BatchHistogram:        # of sizes
    int64_t buckets[SIZE_LIMITS + 1]
    int64_t sum
    int64_t count

cdef struct WaitHistogram:
    int64_t buckets[QUEUING_LIMITS + 1]
    int64_t sum_ns
    int64_t count

cdef struct BatchPadding:
    BatchPadding* next
    int64_t size
    BatchHistogram rows

cdef struct BatchSeries:           # one model name and signature; lives as long as the pool
    BatchSeries* next
    Span model                     # owned
    Span signature                 # owned
    WaitHistogram wait             # per call, from the door to the start of its run
    BatchHistogram size            # rows per batch, without padding
    int64_t calls
    int64_t rows
    int64_t padding_rows
    int64_t reruns                 # runs made to part good calls from bad ones
    int64_t spoiled                # calls that got another call's error, or may have
    int64_t skipped                # calls that were answered (deadline, cancel) before they ran

cdef struct BatchCounters:
    pthread_mutex_t lock
    int64_t batches                # runs of the session
    WaitHistogram queuing
    BatchHistogram processed
    BatchHistogram input_size      # of batchers that are gone
    BatchPadding* paddings
    int32_t padding_count
    BatchSeries* series

cdef int64_t queuing_limits_ns[QUEUING_LIMITS]


cdef void queuing_limits_init() noexcept nogil:
    cdef double limit = 100.0 * NS_PER_US
    cdef int i
    for i in range(QUEUING_LIMITS):
        queuing_limits_ns[i] = <int64_t>limit
        limit *= 1.2


cdef inline void size_histogram_add(BatchHistogram* histogram, int64_t value) noexcept nogil:
    cdef int bucket = 0
    while bucket < SIZE_LIMITS and value >> bucket:
        bucket += 1
    histogram.buckets[bucket] += 1
    histogram.sum += value
    histogram.count += 1


cdef void size_histogram_merge(BatchHistogram* into, const BatchHistogram* other) noexcept nogil:
    cdef int i
    for i in range(SIZE_LIMITS + 1):
        into.buckets[i] += other.buckets[i]
    into.sum += other.sum
    into.count += other.count


cdef inline void wait_histogram_add(WaitHistogram* histogram, int bucket, int64_t ns) noexcept nogil:
    histogram.buckets[bucket] += 1
    histogram.sum_ns += ns
    histogram.count += 1


cdef inline int wait_bucket(int64_t ns) noexcept nogil:
    cdef int low = 0, high = QUEUING_LIMITS, middle
    while low < high:
        middle = (low + high) // 2
        if ns < queuing_limits_ns[middle]:
            high = middle
        else:
            low = middle + 1
    return low


cdef BatchSeries* batch_series_find(BatchCounters* counters, Span model, Span signature) noexcept nogil:
    """Made at first use (configuration bounds their number: models and their signatures).  NULL: no memory, then nothing is counted."""
    cdef BatchSeries* at
    pthread_mutex_lock(&counters.lock)
    at = counters.series
    while at != NULL and not (span_equal(at.model, model) and span_equal(at.signature, signature)):
        at = at.next
    if at == NULL:
        at = batch_series_new(model, signature)
        if at != NULL:
            at.next = counters.series
            counters.series = at
    pthread_mutex_unlock(&counters.lock)
    return at


cdef BatchSeries* batch_series_new(Span model, Span signature) noexcept nogil:
    """The names lie behind the struct."""
    cdef BatchSeries* series = <BatchSeries*>calloc(1, sizeof(BatchSeries) + model.len + signature.len)
    cdef uint8_t* text = <uint8_t*>series + sizeof(BatchSeries)
    if series == NULL:
        return NULL
    if model.len:
        memcpy(text, model.ptr, model.len)
    if signature.len:
        memcpy(text + model.len, signature.ptr, signature.len)
    series.model.ptr = text
    series.model.len = model.len
    series.signature.ptr = text + model.len
    series.signature.len = signature.len
    return series


cdef void batch_count_padding(BatchCounters* counters, int64_t size, int64_t padding) noexcept nogil:
    """With the lock."""
    cdef BatchPadding** at = &counters.paddings
    cdef BatchPadding* found
    while at[0] != NULL and at[0].size != size:
        at = &at[0].next
    found = at[0]
    if found == NULL:
        if counters.padding_count == BATCH_PADDINGS:
            return
        found = <BatchPadding*>calloc(1, sizeof(BatchPadding))
        if found == NULL:
            return
        found.size = size
        counters.padding_count += 1
    else:
        at[0] = found.next
    found.next = counters.paddings               # move to front: a load has few sizes
    counters.paddings = found
    size_histogram_add(&found.rows, padding)


cdef void batch_counters_free(BatchCounters* counters) noexcept nogil:
    cdef BatchPadding* padding
    cdef BatchSeries* series
    while counters.paddings != NULL:
        padding = counters.paddings
        counters.paddings = padding.next
        free(padding)
    while counters.series != NULL:
        series = counters.series
        counters.series = series.next
        free(series)
    pthread_mutex_destroy(&counters.lock)


# -- snapshots (with the GIL; the caller holds the lock of what it reads)

cdef tuple size_histogram_show(const BatchHistogram* histogram):
    return ([histogram.buckets[i] for i in range(SIZE_LIMITS + 1)], <double>histogram.sum, histogram.count)


cdef tuple wait_histogram_show(const WaitHistogram* histogram):
    """The sum in microseconds."""
    return ([histogram.buckets[i] for i in range(QUEUING_LIMITS + 1)], histogram.sum_ns / 1000.0, histogram.count)


cdef dict batch_series_show(const BatchSeries* series):
    return {
        "wait": wait_histogram_show(&series.wait),
        "size": size_histogram_show(&series.size),
        "calls": series.calls,
        "rows": series.rows,
        "padding_rows": series.padding_rows,
        "reruns": series.reruns,
        "spoiled": series.spoiled,
        "skipped": series.skipped,
        "queued_calls": 0,
        "queued_rows": 0,
    }
