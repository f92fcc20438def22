# batch_queue.pxi: who meets whom in a batch: the structures of batching and the key of a queue.  Pure: the caller holds the batcher's
# lock and brings the time; nothing here waits, reads a clock, runs a model or answers a call.
#
# Owns: BatchParams, Batcher, BatchQueue, Batch, BatchTask.  Must not know: threads, sessions, transports.
# Strategy
#   * A queue is a list of batches; the last one is open.  Calls meet only when one tensor can hold them all: same graph inputs and
#     outputs, same dtypes, same row shapes (same ranks only, where the operator asked for padding), so nobody can spoil a batch.
#   * A call is refused at the door (BatchRefusal) or queued; it never waits for room.
#   * The door is batch_admit.pxi, the decision when a batch runs and what it takes along is batch_decide.pxi.

cdef enum:
    BATCH_MAX_QUEUES = 256         # queues with work per servable: each new row shape opens one, and shapes come from clients
    BATCH_KEEP_QUEUES = 32         # idle queues kept for their history; more are freed as they fall empty
    BATCH_BUCKETS = 64             # hash buckets for at most BATCH_MAX_QUEUES + BATCH_KEEP_QUEUES queues
    BATCH_FIRST_TASKS = 16         # places in a fresh batch; doubled when it fills
    BATCH_SPARE = 4                # finished batches kept per servable, so that a steady load allocates nothing
    BATCH_EMPTY_CALLS = 64         # calls of no rows that may ride in one batch beyond one call per row
    BATCH_KEY_WORDS = 40           # key words on the stack: enough for eight inputs of rank 4; longer keys are allocated

cdef struct BatchPool              # batch_pool.pxi
cdef struct Batcher
cdef struct BatchQueue

cdef int64_t BATCH_UNLIMITED = <int64_t>1 << 40     # stands for the reference's -1; sums of it cannot overflow
cdef int64_t BATCH_MAX_ROWS = <int64_t>1 << 20      # rows queued per servable over all its queues, unless one queue may hold more
cdef int64_t BATCH_MAX_ELEMENTS = <int64_t>1 << 26  # elements of one batch (256 MiB of floats): a few bytes on the wire may stand
#                                                     for many elements, so calls beyond it go into the next batch
cdef int64_t BATCH_RERUNS_PER_S = 1000              # reruns after a failed batch, per servable; also how many may be saved up.
#                                                     A bad call costs about 2 log2(calls) of them, so bad input at full rate
#                                                     takes a bounded part of the machine
cdef int64_t BATCH_RERUN_RESERVE = 64               # below it a queue with bad input runs calls one by one instead

cdef struct BatchParams:           # one servable's settings, validated (batch_params_check)
    int64_t max_batch_size         # rows of one call; also of a batch unless splitting
    int64_t limit                  # rows of a batch
    int64_t timeout_ns
    int64_t max_enqueued           # batches per queue, the open one included
    int32_t splitting
    int32_t pad                    # pad_variable_length_inputs
    int32_t allowed_count
    int64_t* allowed               # owned; allowed_batch_sizes

cdef struct BatchPart:             # where the rows of one piece of a split call came out
    RunResult* result              # counted; NULL: failed or dropped, and the call was answered
    int64_t begin
    int64_t rows

cdef struct BatchGather:           # a call split over batches; freed by the piece that ends last
    pthread_mutex_t lock           # guards `wholes`
    TF_Tensor** wholes             # owned, `inputs` of them: the request's tensors by plan input, made for the first piece
    int32_t inputs
    int32_t missing                # pieces not yet done (atomic)
    int32_t count
    int64_t run_ns                 # sum over the pieces (atomic)
    BatchPart parts[1]             # `count` entries

cdef struct BatchTask:             # a call in a batch, or a piece of it
    Call* call                     # counted
    BatchGather* gather            # NULL: the whole call
    int64_t begin                  # first row of the call
    int64_t rows
    int64_t queued_ns
    int32_t piece                  # index into gather.parts

cdef struct Batch:
    Batch* next
    BatchQueue* queue
    BatchTask* tasks               # owned; tasks[live:count] only wait to be dropped
    int32_t count
    int32_t live
    int32_t cap
    int32_t closed                 # nobody may join: the rest of a batch of which a part was taken
    int64_t rows
    int64_t* dims                  # owned; padding only: the widest row so far, input by input, for BATCH_MAX_ELEMENTS
    int64_t opened_ns              # when its first call came
    int64_t taken_ns
    int64_t expected_ns            # the queue's run_ns when it was taken; 0 = unknown
    int32_t revived                # all its calls were expected to be late; it runs for a newer estimate
    int32_t in_time                # of a revived batch: calls whose result somebody still waited for

cdef struct BatchQueue:
    BatchQueue* chain              # hash bucket
    BatchQueue* ring_next          # the batcher's ring of queues with work
    BatchQueue* ring_prev
    Batcher* batcher
    Plan* plan                     # of the call that opened it: feeds and fetches are equal for all that join
    FetchSet* fetch
    BatchSeries* series            # counters of (model, signature)
    uint64_t hash
    int64_t* word                  # owned: the key
    int32_t words
    int32_t batches
    int32_t running                # batches taken and not finished: keeps the queue
    int32_t narrow                 # most calls per batch while bad values come; 0 = no such limit
    int32_t narrow_until           # calls per batch at which `narrow` is lifted
    int32_t lone                   # batches of one call in a row that nobody else came near
    int64_t rows
    int64_t calls                  # and pieces of calls
    int64_t width                  # elements per row when nothing is padded
    int64_t seen                   # batches whose time is known
    int64_t run_ns                 # smoothed time of one batch; 0 = unknown
    int64_t spread_ns              # smoothed distance of a batch's time from it
    int64_t revive_ns              # no batch of late calls runs before: the last one was late indeed
    Batch* first
    Batch* last

cdef struct Batcher:               # all batching of one servable
    pthread_mutex_t lock           # guards everything below but `pad`, `due_ns` and `users`
    BatchPool* pool                # counted
    BatchCounters* counters        # the pool's
    Servable* servable
    BatchParams params
    BatchQueue* buckets[BATCH_BUCKETS]
    BatchQueue* ring               # the queue whose turn is next
    Batch* spare
    int32_t spare_count
    int32_t queue_count            # in the hash table
    int32_t ring_count             # with work
    int64_t rows
    int64_t tokens                 # reruns left
    int64_t tokens_at              # when they were last refilled
    BatchHistogram input_size      # spec: rows of each input tensor of each call, refused ones too
    int32_t pad                    # atomic copy of params.pad: a key is built before the lock is taken
    int64_t due_ns                 # atomic: when something can run; 0 = now, INT64_MAX = nothing queued
    int32_t users                  # threads at work on it; guarded by the pool's lock

cdef struct BatchKey:              # who may meet; built before the lock is taken
    uint64_t hash
    int64_t* word
    int32_t words
    int32_t pad
    int32_t ranks                  # sum of the inputs' ranks
    int64_t rows                   # of the call
    int64_t width                  # elements per row, all inputs
    int64_t local[BATCH_KEY_WORDS]

cdef enum BatchReason:
    BATCH_OK = 0
    BATCH_NO_INPUT = 1
    BATCH_SCALAR = 2
    BATCH_UNEQUAL = 3
    BATCH_TOO_LARGE = 4
    BATCH_FULL = 5
    BATCH_NO_CAPACITY = 6
    BATCH_MANY_QUEUES = 7
    BATCH_MANY_ROWS = 8
    BATCH_NO_MEMORY = 9

cdef struct BatchRefusal:          # the numbers of a refusal; made into a text without the lock (batch_refusal_status)
    int reason
    int32_t partly                 # memory ran out with some pieces queued; they give the call back
    int64_t size
    int64_t batches
    int64_t open_rows
    int64_t capacity
    BatchParams params             # its `allowed` is not to be read


# -- shape of a call: an input of the request, or the signature's own default

cdef inline TensorSpan* batch_span(const Call* call, int i) noexcept nogil:
    """The request's tensor for plan input `i`; NULL: the signature's default stands in."""
    cdef int32_t j = call.slot_input[i]
    if j < 0:
        return NULL
    return call.inputs + j


cdef inline int batch_dtype(const Call* call, int i) noexcept nogil:
    cdef TensorSpan* span = batch_span(call, i)
    return span.dtype if span != NULL else tf.TensorType(call.plan.inputs[i].fallback)


cdef inline int batch_rank(const Call* call, int i) noexcept nogil:
    cdef TensorSpan* span = batch_span(call, i)
    return span.rank if span != NULL else tf.NumDims(call.plan.inputs[i].fallback)


cdef inline int64_t batch_dim(const Call* call, int i, int d) noexcept nogil:
    cdef TensorSpan* span = batch_span(call, i)
    return span.dims[d] if span != NULL else tf.Dim(call.plan.inputs[i].fallback, d)


cdef inline int64_t batch_times(int64_t a, int64_t b) noexcept nogil:
    """a * b for non-negative numbers, stopping at BATCH_UNLIMITED."""
    if a == 0 or b == 0:
        return 0
    return BATCH_UNLIMITED if a > BATCH_UNLIMITED // b else a * b


cdef inline uint64_t batch_mix(uint64_t hash, uint64_t word) noexcept nogil:
    hash = (hash ^ word) * <uint64_t>0x9E3779B97F4A7C15
    return hash ^ (hash >> 29)


cdef int batch_key_build(Call* call, BatchKey* key, bint pad) noexcept nogil:
    """Checks that all inputs have the same number of rows and writes the key; a BatchReason.  End with batch_key_free."""
    cdef Plan* plan = call.plan
    cdef int i, d, rank
    cdef int64_t width
    cdef uint64_t hash = <uint64_t>pad
    key.word = key.local
    key.width = 0
    key.pad = pad
    key.ranks = 0
    if plan.input_count == 0:
        return BATCH_NO_INPUT
    for i in range(plan.input_count):
        rank = batch_rank(call, i)
        if rank <= 0:
            return BATCH_SCALAR
        key.ranks += rank
        if i == 0:
            key.rows = batch_dim(call, 0, 0)
        elif batch_dim(call, i, 0) != key.rows:
            return BATCH_UNEQUAL
    if 1 + plan.input_count + key.ranks > BATCH_KEY_WORDS:
        key.word = <int64_t*>malloc((1 + plan.input_count + key.ranks) * sizeof(int64_t))
        if key.word == NULL:
            return BATCH_NO_MEMORY
    key.words = 1
    key.word[0] = pad
    for i in range(plan.input_count):
        rank = batch_rank(call, i)
        width = 1
        for d in range(1, rank):
            width = batch_times(width, batch_dim(call, i, d))
        key.width += width
        key.word[key.words] = <int64_t>batch_dtype(call, i) << 32 | rank
        key.words += 1
        # Empty rows and ranks above six cannot be padded (the reference fails the whole batch): they meet their equals only.
        if not pad or width == 0 or rank > 6:
            for d in range(1, rank):
                key.word[key.words] = batch_dim(call, i, d)
                key.words += 1
        hash = batch_mix(hash, <uint64_t>plan.feeds[i].oper)
    for i in range(call.fetch.count):
        hash = batch_mix(hash, <uint64_t>call.fetch.fetches[i].oper)
    for i in range(key.words):
        hash = batch_mix(hash, <uint64_t>key.word[i])
    key.hash = hash
    return BATCH_OK


cdef void batch_key_free(BatchKey* key) noexcept nogil:
    if key.word != key.local:
        free(key.word)


cdef bint batch_same_outputs(const TF_Output* a, const TF_Output* b, int count) noexcept nogil:
    cdef int i
    for i in range(count):
        if a[i].oper != b[i].oper or a[i].index != b[i].index:
            return False
    return True


cdef bint batch_key_equal(const BatchQueue* queue, const BatchKey* key, const Call* call) noexcept nogil:
    """Two signatures over the same graph tensors, in the same order, share a queue, as they do in the reference."""
    if queue.hash != key.hash or queue.words != key.words:
        return False
    if memcmp(queue.word, key.word, key.words * sizeof(int64_t)) != 0:
        return False
    if queue.plan != call.plan:
        if queue.plan.input_count != call.plan.input_count:
            return False
        if not batch_same_outputs(queue.plan.feeds, call.plan.feeds, call.plan.input_count):
            return False
    if queue.fetch == call.fetch:
        return True
    return queue.fetch.count == call.fetch.count and batch_same_outputs(queue.fetch.fetches, call.fetch.fetches, call.fetch.count)


# -- queues of a batcher

cdef BatchQueue* batch_queue_find(Batcher* batcher, const BatchKey* key, const Call* call) noexcept nogil:
    cdef BatchQueue* queue = batcher.buckets[key.hash % BATCH_BUCKETS]
    while queue != NULL and not batch_key_equal(queue, key, call):
        queue = queue.chain
    return queue


cdef BatchQueue* batch_queue_new(Batcher* batcher, const BatchKey* key, const Call* call) noexcept nogil:
    cdef BatchQueue* queue = <BatchQueue*>calloc(1, sizeof(BatchQueue))
    cdef BatchQueue** bucket = &batcher.buckets[key.hash % BATCH_BUCKETS]
    if queue == NULL:
        return NULL
    queue.word = <int64_t*>malloc(key.words * sizeof(int64_t))
    if queue.word == NULL:
        free(queue)
        return NULL
    memcpy(queue.word, key.word, key.words * sizeof(int64_t))
    queue.words = key.words
    queue.hash = key.hash
    queue.batcher = batcher
    queue.width = key.width
    queue.plan = call.plan
    queue.fetch = call.fetch
    queue.series = batch_series_find(batcher.counters, batcher.servable.name, call.plan.signature)
    queue.chain = bucket[0]
    bucket[0] = queue
    batcher.queue_count += 1
    return queue


cdef void batch_queue_free(BatchQueue* queue) noexcept nogil:
    """An empty queue that no thread works for."""
    cdef BatchQueue** at = &queue.batcher.buckets[queue.hash % BATCH_BUCKETS]
    while at[0] != queue:
        at = &at[0].chain
    at[0] = queue.chain
    queue.batcher.queue_count -= 1
    free(queue.word)
    free(queue)


cdef void batch_ring_join(BatchQueue* queue) noexcept nogil:
    """At the end of the round: just before the queue whose turn is next."""
    cdef Batcher* batcher = queue.batcher
    cdef BatchQueue* head = batcher.ring
    batcher.ring_count += 1
    if head == NULL:
        queue.ring_next = queue
        queue.ring_prev = queue
        batcher.ring = queue
        return
    queue.ring_next = head
    queue.ring_prev = head.ring_prev
    head.ring_prev.ring_next = queue
    head.ring_prev = queue


cdef void batch_ring_leave(BatchQueue* queue) noexcept nogil:
    cdef Batcher* batcher = queue.batcher
    batcher.ring_count -= 1
    if queue.ring_next == queue:
        batcher.ring = NULL
        return
    queue.ring_prev.ring_next = queue.ring_next
    queue.ring_next.ring_prev = queue.ring_prev
    if batcher.ring == queue:
        batcher.ring = queue.ring_next


# -- batches

cdef Batch* batch_new(Batcher* batcher, BatchQueue* queue, int64_t now) noexcept nogil:
    cdef Batch* batch = batcher.spare
    cdef BatchTask* tasks
    cdef int32_t cap
    if batch != NULL:
        batcher.spare = batch.next
        batcher.spare_count -= 1
        tasks = batch.tasks
        cap = batch.cap
    else:
        batch = <Batch*>malloc(sizeof(Batch))
        if batch == NULL:
            return NULL
        cap = BATCH_FIRST_TASKS
        tasks = <BatchTask*>malloc(cap * sizeof(BatchTask))
        if tasks == NULL:
            free(batch)
            return NULL
        live_add(LIVE_BATCH, 1)
    memset(batch, 0, sizeof(Batch))
    batch.tasks = tasks
    batch.cap = cap
    batch.queue = queue
    batch.opened_ns = now
    return batch


cdef void batch_free(Batch* batch) noexcept nogil:
    free(batch.dims)
    free(batch.tasks)
    free(batch)
    live_add(LIVE_BATCH, -1)


cdef void batch_recycle(Batcher* batcher, Batch* batch) noexcept nogil:
    if batcher.spare_count == BATCH_SPARE or batch.cap > 16 * BATCH_FIRST_TASKS:
        batch_free(batch)
        return
    free(batch.dims)
    batch.dims = NULL
    batch.next = batcher.spare
    batcher.spare = batch
    batcher.spare_count += 1


cdef int batch_room(Batch* batch) noexcept nogil:
    """One more place among the tasks; -1: no memory."""
    cdef BatchTask* grown
    if batch.count < batch.cap:
        return 0
    grown = <BatchTask*>realloc(batch.tasks, 2 * batch.cap * sizeof(BatchTask))
    if grown == NULL:
        return -1
    batch.tasks = grown
    batch.cap *= 2
    return 0


cdef int64_t batch_joined_width(const Batch* batch, const BatchKey* key, const Call* call) noexcept nogil:
    """Elements of a row if the call joined: with padding every dimension takes the larger value."""
    cdef int i, d
    cdef int64_t total = 0, width, dim
    cdef const int64_t* widest = batch.dims
    if not key.pad or widest == NULL or key.width == 0:
        return key.width
    for i in range(call.plan.input_count):
        width = 1
        for d in range(1, batch_rank(call, i)):
            dim = batch_dim(call, i, d)
            width = batch_times(width, dim if dim > widest[0] else widest[0])
            widest += 1
        total += width
    return total


cdef bint batch_fits(const Batch* batch, const BatchKey* key, const Call* call, int64_t rows, int64_t limit) noexcept nogil:
    if batch.closed or batch.rows + rows > limit or batch.count >= limit + BATCH_EMPTY_CALLS:
        return False
    return batch.count == 0 or batch_times(batch.rows + rows, batch_joined_width(batch, key, call)) <= BATCH_MAX_ELEMENTS


cdef int batch_widen(Batch* batch, const BatchKey* key, const Call* call) noexcept nogil:
    """Padding: the batch's widest dimensions after the call has joined; -1: no memory."""
    cdef int i, d
    cdef int64_t dim
    cdef int64_t* widest
    if not key.pad or key.width == 0:
        return 0
    if batch.dims == NULL:
        batch.dims = <int64_t*>calloc(key.ranks + 1, sizeof(int64_t))
        if batch.dims == NULL:
            return -1
    widest = batch.dims
    for i in range(call.plan.input_count):
        for d in range(1, batch_rank(call, i)):
            dim = batch_dim(call, i, d)
            if dim > widest[0]:
                widest[0] = dim
            widest += 1
    return 0


cdef inline void batch_append(Batch* batch, const BatchTask* task) noexcept nogil:
    """The caller has made room."""
    batch.tasks[batch.count] = task[0]
    batch.count += 1
    batch.rows += task.rows
