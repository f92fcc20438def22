# batch_pool.pxi: the threads that run batches, shared by all servables; where calls enter and settings change.
#
# Owns: BatchPool, its threads, the ring of batchers, BatchThreads (the Python face).  Must not know: what a batch is made of.
# Strategy
#   * Each batcher publishes in `due_ns` when it next has something to run.  A thread takes the next due batcher in turn; when none is
#     due it sleeps: one thread, the leader, until the earliest time; the others until they are called.
#   * A submit looks at the threads only when it made its batcher due earlier, and wakes at most one; whoever takes a batch and sees
#     more work that is due wakes the next.  So a busy server wakes nobody, and a batch is started within a thread wake-up of its time.
#   * Locks: a batcher's, the pool's and the counters' are never held together, but for counters inside a batcher (new queue).

cdef extern from * nogil:
    """
    #if defined(__linux__)
    #include <sys/prctl.h>
    /* The kernel may be 50 us late with a timed wait unless told that the time matters. */
    static inline void tfs_timer_exact(void) { prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0); }
    #else
    static inline void tfs_timer_exact(void) {}
    #endif
    /* Held for some ten nanoseconds: spinning shortly is cheaper than the kernel. */
    static inline void tfs_mutex_spinning(pthread_mutex_t* mutex) {
    #if defined(__GLIBC__)
        pthread_mutexattr_t attr;
        pthread_mutexattr_init(&attr);
        pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
        pthread_mutex_init(mutex, &attr);
        pthread_mutexattr_destroy(&attr);
    #else
        pthread_mutex_init(mutex, NULL);
    #endif
    }
    """
    void mutex_spinning "tfs_mutex_spinning"(pthread_mutex_t* mutex) noexcept
    void timer_exact "tfs_timer_exact"() noexcept

cdef enum:
    BATCH_MAX_THREADS = 1024       # num_batch_threads beyond it is cut: more threads only cost stacks

cdef struct BatchThread:
    BatchPool* pool
    pthread_t thread
    pthread_cond_t wake
    BatchThread* next_idle
    int32_t called

cdef struct BatchPool:
    pthread_mutex_t lock           # guards everything below but `idle` and `refs`
    pthread_cond_t left            # a thread has left a batcher
    Batcher** ring                 # owned; registered batchers
    int32_t count
    int32_t cap
    int32_t turn                   # index of the batcher to look at first
    int32_t thread_count
    int32_t stopping
    BatchThread* threads           # owned
    BatchThread* resting           # stack of threads that wait to be called: the last to rest is the warmest
    BatchThread* leader            # the thread that waits for `leader_until`, or NULL
    int64_t leader_until
    int32_t idle                   # atomic: threads that rest or lead, or are about to
    int32_t refs                   # atomic: BatchThreads and each batcher
    BatchCounters counters


# -- waking

cdef BatchThread* pool_choose(BatchPool* pool, int64_t due, int64_t now) noexcept nogil:
    """Something is due at `due`: the thread to call for it, or NULL when none rests or the leader will be up in time.  With the lock."""
    cdef BatchThread* thread = NULL
    if due > now and pool.leader != NULL:
        if due < pool.leader_until:
            thread = pool.leader
    elif pool.resting != NULL:
        thread = pool.resting
        pool.resting = thread.next_idle
    else:
        thread = pool.leader
    if thread == NULL or thread.called:
        return NULL
    thread.called = 1
    return thread


cdef inline void pool_notify(BatchPool* pool, int64_t due, int64_t now) noexcept nogil:
    """After `due_ns` of a batcher was set: no thread that is going to rest may miss it (see pool_body)."""
    cdef BatchThread* thread
    atomic_fence()
    if atomic_load32(&pool.idle) > 0:
        pthread_mutex_lock(&pool.lock)
        thread = pool_choose(pool, due, now)
        pthread_mutex_unlock(&pool.lock)
        if thread != NULL:                       # without the lock, which the thread wants first of all
            pthread_cond_signal(&thread.wake)


cdef Batcher* pool_pick(BatchPool* pool, int64_t now, int64_t* when) noexcept nogil:
    """The next batcher in turn that is due, with a thread counted on it, or NULL; `when`: the earliest time of the others.  With the
    lock.  A pool that stops runs what is queued at once."""
    cdef Batcher* found = NULL
    cdef Batcher* batcher
    cdef int64_t due
    cdef int32_t i, at
    when[0] = INT64_MAX
    for i in range(pool.count):
        at = pool.turn + i
        at = at - pool.count if at >= pool.count else at
        batcher = pool.ring[at]
        due = atomic_load64(&batcher.due_ns)
        if pool.stopping and due != INT64_MAX:
            due = 0
        if found == NULL and due <= now:
            found = batcher
            pool.turn = at + 1 if at + 1 < pool.count else 0
        elif due < when[0]:
            when[0] = due
    if found != NULL:
        found.users += 1
    return found


cdef void pool_rest(BatchPool* pool, BatchThread* self, int64_t when) noexcept nogil:
    """Waits until called, as the leader at most until `when`.  With the lock."""
    self.called = 0
    if when != INT64_MAX and pool.leader == NULL:
        pool.leader = self
        pool.leader_until = when
        cond_wait_until(&self.wake, &pool.lock, when)
        pool.leader = NULL
        return
    self.next_idle = pool.resting
    pool.resting = self
    while not self.called:
        pthread_cond_wait(&self.wake, &pool.lock)


cdef void pool_work(Batcher* batcher, bint stopping) noexcept nogil:
    """Takes one batch of a due batcher and runs it.  Without the pool's lock."""
    cdef int64_t now = now_ns(), due, run_ns
    cdef Batch* batch
    cdef bint failed
    pthread_mutex_lock(&batcher.lock)
    batch = batcher_take(batcher, now, &due)
    if batch == NULL and stopping and due != INT64_MAX:
        batch = batcher_take(batcher, due, &due)
    atomic_store64(&batcher.due_ns, due)
    pthread_mutex_unlock(&batcher.lock)
    if due != INT64_MAX:
        pool_notify(batcher.pool, due, now)
    if batch == NULL:
        return
    run_ns = batch_execute(batch, now, &failed)
    pthread_mutex_lock(&batcher.lock)
    batcher_done(batcher, batch, run_ns, failed)
    pthread_mutex_unlock(&batcher.lock)


cdef void* pool_body(void* argument) noexcept nogil:
    """A batch thread: until the pool stops and nothing is queued."""
    cdef BatchThread* self = <BatchThread*>argument
    cdef BatchThread* other
    cdef BatchPool* pool = self.pool
    cdef Batcher* batcher
    cdef int64_t when
    cdef bint stopping
    denormals_flush()
    timer_exact()
    pthread_mutex_lock(&pool.lock)
    while True:
        batcher = pool_pick(pool, now_ns(), &when)
        if batcher == NULL:
            if pool.stopping:
                break
            atomic_add32(&pool.idle, 1)
            atomic_fence()
            batcher = pool_pick(pool, now_ns(), &when)           # a submit that did not see us idle has set its due_ns before
            if batcher == NULL:
                pool_rest(pool, self, when)
            atomic_add32(&pool.idle, -1)
            if batcher == NULL:
                continue
        other = NULL
        if when != INT64_MAX and pool.leader == NULL:            # somebody must wait for the next time while this thread runs
            other = pool_choose(pool, when, now_ns())
        stopping = pool.stopping
        pthread_mutex_unlock(&pool.lock)
        if other != NULL:
            pthread_cond_signal(&other.wake)
        pool_work(batcher, stopping)
        pthread_mutex_lock(&pool.lock)
        batcher.users -= 1
        if batcher.users == 0:
            pthread_cond_broadcast(&pool.left)
    pthread_mutex_unlock(&pool.lock)
    return NULL


# -- the pool's life

cdef BatchPool* pool_new(int32_t threads, const char* name) noexcept nogil:
    """NULL: no memory, or the system refused all threads."""
    cdef BatchPool* pool = <BatchPool*>calloc(1, sizeof(BatchPool))
    cdef BatchThread* thread
    cdef int32_t i
    if pool == NULL:
        return NULL
    pool.refs = 1
    queuing_limits_init()
    mutex_spinning(&pool.lock)
    mutex_spinning(&pool.counters.lock)
    cond_init(&pool.left)
    pool.threads = <BatchThread*>calloc(threads + 1, sizeof(BatchThread))
    for i in range(threads if pool.threads != NULL else 0):
        thread = &pool.threads[pool.thread_count]
        thread.pool = pool
        cond_init(&thread.wake)
        if thread_start(&thread.thread, pool_body, thread, name) == 0:
            pool.thread_count += 1
        else:
            pthread_cond_destroy(&thread.wake)
    if pool.thread_count == 0 and threads > 0:
        pool_drop(pool)
        return NULL
    return pool


cdef void pool_stop(BatchPool* pool) noexcept nogil:
    """Runs what is queued, then ends the threads.  Nobody may submit any more."""
    cdef int32_t i
    pthread_mutex_lock(&pool.lock)
    pool.stopping = 1
    pool.resting = NULL
    for i in range(pool.thread_count):
        pool.threads[i].called = 1
        pthread_cond_signal(&pool.threads[i].wake)
    pthread_mutex_unlock(&pool.lock)
    for i in range(pool.thread_count):
        pthread_join(pool.threads[i].thread, NULL)
        pthread_cond_destroy(&pool.threads[i].wake)
    pool.thread_count = 0


cdef void pool_drop(BatchPool* pool) noexcept nogil:
    """The last reference frees it; its threads must have ended (pool_stop)."""
    if atomic_add32(&pool.refs, -1) != 0:
        return
    batch_counters_free(&pool.counters)
    pthread_cond_destroy(&pool.left)
    pthread_mutex_destroy(&pool.lock)
    free(pool.threads)
    free(pool.ring)
    free(pool)


# -- batchers: enable, change, disable

cdef Batcher* batcher_new(Servable* servable, BatchPool* pool, const BatchParams* params) noexcept nogil:
    """Takes over `params.allowed`.  Registered: its batches run from now on.  NULL: no memory."""
    cdef Batcher* batcher = <Batcher*>calloc(1, sizeof(Batcher))
    cdef Batcher** grown
    if batcher == NULL:
        return NULL
    mutex_spinning(&batcher.lock)
    batcher.pool = pool
    batcher.counters = &pool.counters
    batcher.servable = servable
    batcher.params = params[0]
    batcher.pad = params.pad
    batcher.due_ns = INT64_MAX
    batcher.tokens = BATCH_RERUNS_PER_S
    pthread_mutex_lock(&pool.lock)
    if pool.count == pool.cap:
        grown = <Batcher**>realloc(pool.ring, (2 * pool.cap + 8) * sizeof(Batcher*))
        if grown == NULL:
            pthread_mutex_unlock(&pool.lock)
            pthread_mutex_destroy(&batcher.lock)
            free(batcher)
            return NULL
        pool.ring = grown
        pool.cap = 2 * pool.cap + 8
    pool.ring[pool.count] = batcher
    pool.count += 1
    atomic_add32(&pool.refs, 1)
    pthread_mutex_unlock(&pool.lock)
    return batcher


cdef void batcher_free(Batcher* batcher) noexcept nogil:
    """Leaves the pool, waits for threads at work on it, frees it.  Only when no call holds the servable: nothing is queued then."""
    cdef BatchPool* pool = batcher.pool
    cdef BatchQueue* queue
    cdef Batch* batch
    cdef int32_t i = 0
    pthread_mutex_lock(&pool.lock)
    while pool.ring[i] != batcher:
        i += 1
    pool.count -= 1
    memmove(pool.ring + i, pool.ring + i + 1, (pool.count - i) * sizeof(Batcher*))
    pool.turn = 0
    while batcher.users > 0:
        pthread_cond_wait(&pool.left, &pool.lock)
    pthread_mutex_unlock(&pool.lock)
    pthread_mutex_lock(&pool.counters.lock)
    size_histogram_merge(&pool.counters.input_size, &batcher.input_size)
    pthread_mutex_unlock(&pool.counters.lock)
    pthread_mutex_lock(&batcher.lock)            # a submit that refused a call may just be leaving
    pthread_mutex_unlock(&batcher.lock)
    for i in range(BATCH_BUCKETS):
        while batcher.buckets[i] != NULL:
            queue = batcher.buckets[i]
            batch_queue_free(queue)
    while batcher.spare != NULL:
        batch = batcher.spare
        batcher.spare = batch.next
        batch_free(batch)
    free(batcher.params.allowed)
    pthread_mutex_destroy(&batcher.lock)
    free(batcher)
    pool_drop(pool)


cdef int64_t batcher_due_after(Batcher* batcher, const BatchQueue* queue, int64_t now) noexcept nogil:
    """After a call joined `queue`: publishes when the batcher is due if that became earlier; then that time, else INT64_MAX."""
    cdef int64_t when
    if batch_decide(queue, &batcher.params, now, &when):
        when = now
    if when >= batcher.due_ns:
        return INT64_MAX
    atomic_store64(&batcher.due_ns, when)
    return when


cdef void batch_submit(Call* call) noexcept nogil:
    """An admitted call joins a batch, or is answered with the reason why not.  Any thread; the caller holds the call."""
    batch_submit_at(call, now_ns())


cdef void batch_submit_at(Call* call, int64_t now) noexcept nogil:
    cdef Batcher* batcher = <Batcher*>call.servable.batcher
    cdef BatchPool* pool = batcher.pool
    cdef BatchQueue* queue
    cdef BatchRefusal refusal
    cdef BatchKey key
    cdef Status status
    cdef int64_t due = INT64_MAX
    memset(&refusal, 0, sizeof(refusal))
    refusal.reason = batch_key_build(call, &key, atomic_load32(&batcher.pad))
    if refusal.reason == BATCH_OK:
        pthread_mutex_lock(&batcher.lock)
        queue = batch_enqueue(batcher, call, &key, now, &refusal)
        if queue != NULL:
            due = batcher_due_after(batcher, queue, now)
        pthread_mutex_unlock(&batcher.lock)
    batch_key_free(&key)
    if due != INT64_MAX:
        pool_notify(pool, due, now)
    if refusal.reason != BATCH_OK:
        memset(&status, 0, sizeof(Status))
        batch_refusal_status(&refusal, call.servable, &status)
        if not refusal.partly:
            engine_unqueue(call)
        batch_answer_error(call, &status)
        status_clear(&status)
