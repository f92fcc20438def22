# timer.pxi: the engine's one timer: it answers callers whose deadline passes while another thread has their call.
#
# Owns: a binary heap of calls by deadline and the thread that waits for the first; the growth check of the runners.
# Must not know: TensorFlow, transports.
# Strategy: a call enters the heap when it is handed to a runner or a batch, and leaves it when it is answered; inline calls never
# enter.  Being in the heap is one reference to the ticket.  Deadlines mostly arrive in order, so an insertion is one comparison.

cdef enum:
    TIMER_BATCH = 64               # expired calls answered per turn, outside the lock


cdef inline void heap_put(EngineCore* engine, int32_t at, Call* call) noexcept nogil:
    engine.heap[at] = call
    atomic_store32(&call.timer_index, at)


cdef void heap_up(EngineCore* engine, int32_t at, Call* call) noexcept nogil:
    cdef int32_t parent
    while at > 0:
        parent = (at - 1) // 2
        if engine.heap[parent].deadline_ns <= call.deadline_ns:
            break
        heap_put(engine, at, engine.heap[parent])
        at = parent
    heap_put(engine, at, call)


cdef void heap_down(EngineCore* engine, int32_t at, Call* call) noexcept nogil:
    cdef int32_t child
    while True:
        child = 2 * at + 1
        if child >= engine.heap_size:
            break
        if child + 1 < engine.heap_size and engine.heap[child + 1].deadline_ns < engine.heap[child].deadline_ns:
            child += 1
        if engine.heap[child].deadline_ns >= call.deadline_ns:
            break
        heap_put(engine, at, engine.heap[child])
        at = child
    heap_put(engine, at, call)


cdef void heap_take(EngineCore* engine, int32_t at) noexcept nogil:
    """Removes the call at `at`."""
    cdef Call* last
    atomic_store32(&engine.heap[at].timer_index, -1)
    engine.heap_size -= 1
    if at == engine.heap_size:
        return
    last = engine.heap[engine.heap_size]
    if at > 0 and engine.heap[(at - 1) // 2].deadline_ns > last.deadline_ns:
        heap_up(engine, at, last)
    else:
        heap_down(engine, at, last)


cdef int timer_add(Call* call) noexcept nogil:
    """0, or RESOURCE_EXHAUSTED without memory.  A call without a deadline is not added."""
    cdef EngineCore* engine = call.engine
    cdef Call** grown
    cdef int32_t capacity
    if call.deadline_ns == INT64_MAX:
        return OK
    pthread_mutex_lock(&engine.timer_lock)
    if engine.heap_size == engine.heap_capacity:
        capacity = engine.heap_capacity * 2 + 256
        grown = <Call**>realloc(engine.heap, capacity * sizeof(Call*))
        if grown == NULL:
            pthread_mutex_unlock(&engine.timer_lock)
            return RESOURCE_EXHAUSTED
        engine.heap = grown
        engine.heap_capacity = capacity
    call_hold(call)
    engine.heap_size += 1
    heap_up(engine, engine.heap_size - 1, call)
    if call.timer_index == 0:
        pthread_cond_signal(&engine.timer_wake)
    pthread_mutex_unlock(&engine.timer_lock)
    return OK


cdef void timer_remove(Call* call) noexcept nogil:
    """After the call was answered; nothing when it is not in the heap."""
    cdef EngineCore* engine = call.engine
    cdef bint was_in = False
    if atomic_load32(&call.timer_index) < 0:   # only timer_add, before the hand-over, makes it anything else
        return
    pthread_mutex_lock(&engine.timer_lock)
    if call.timer_index >= 0:
        heap_take(engine, call.timer_index)
        was_in = True
    pthread_mutex_unlock(&engine.timer_lock)
    if was_in:
        call_drop(call)


cdef void timer_arm_growth(EngineCore* engine, int64_t when_ns) noexcept nogil:
    """Asks for a look at the runners at `when_ns`, if none is due."""
    pthread_mutex_lock(&engine.timer_lock)
    if engine.growth_check_ns == INT64_MAX:
        engine.growth_check_ns = when_ns
        pthread_cond_signal(&engine.timer_wake)
    pthread_mutex_unlock(&engine.timer_lock)


cdef void* timer_body(void* argument) noexcept nogil:
    """The timer's thread."""
    cdef EngineCore* engine = <EngineCore*>argument
    cdef Call* expired[TIMER_BATCH]
    cdef int64_t now, wake
    cdef int32_t count, i
    cdef bint grow
    pthread_mutex_lock(&engine.timer_lock)
    while not engine.timer_stopping:
        now = now_ns()
        count = 0
        while count < TIMER_BATCH and engine.heap_size and engine.heap[0].deadline_ns <= now:
            expired[count] = engine.heap[0]           # the heap's reference moves to us
            heap_take(engine, 0)
            count += 1
        grow = engine.growth_check_ns <= now
        if grow:
            engine.growth_check_ns = INT64_MAX
        if count or grow:
            pthread_mutex_unlock(&engine.timer_lock)
            for i in range(count):
                engine_expire(expired[i])
                call_drop(expired[i])
            if grow:
                runners_check_growth(engine)
            pthread_mutex_lock(&engine.timer_lock)
            continue
        wake = engine.heap[0].deadline_ns if engine.heap_size else INT64_MAX
        if engine.growth_check_ns < wake:
            wake = engine.growth_check_ns
        if wake == INT64_MAX:
            pthread_cond_wait(&engine.timer_wake, &engine.timer_lock)
        else:
            cond_wait_until(&engine.timer_wake, &engine.timer_lock, wake)
    pthread_mutex_unlock(&engine.timer_lock)
    return NULL
