# session.pxi: one TensorFlow session: load it from a SavedModel, run it, close it.
#
# Owns: TF_Graph, TF_Session and the RunResult of a run.  Must not know: tickets, queues, batches.
# Strategy: TF_LoadSessionFromSavedModel does the whole work (restore, assets, init op).  A run goes inline
# (RunOptions.inter_op_thread_pool = -1: kernels run on the calling thread, 2 us) or pooled (TensorFlow's threads, and its own
# timeout in RunOptions.timeout_in_ms, which inline runs ignore).  TF_SessionRun is thread-safe.

cdef enum:
    RUN_OPTIONS_TIMEOUT_TAG = (2 << 3) | WIRE_VARINT         # RunOptions.timeout_in_ms
    RUN_OPTIONS_POOL_TAG = (3 << 3) | WIRE_VARINT            # RunOptions.inter_op_thread_pool
    RUN_OPTIONS_MAX_BYTES = 24

cdef struct TfModel:               # what LoadedServable owns of TensorFlow
    TF_Graph* graph
    TF_Session* session
    TF_Buffer* meta_graph          # the MetaGraphDef, only during the load


# -- run results

cdef RunResult* result_new(int32_t count) noexcept nogil:
    """Room for `count` tensors (all NULL), held once.  NULL = no memory."""
    cdef RunResult* result = <RunResult*>calloc(1, sizeof(RunResult) + count * sizeof(TF_Tensor*))
    if result != NULL:
        live_add(LIVE_RESULT, 1)
        result.refs = 1
        result.count = count
        result.rows = -1
    return result


cdef inline void result_hold(RunResult* result) noexcept nogil:
    atomic_add32(&result.refs, 1)


cdef void result_drop(RunResult* result) noexcept nogil:
    cdef int32_t i
    if result == NULL or atomic_add32(&result.refs, -1) != 0:
        return
    for i in range(result.count):
        if (&result.tensors[0])[i] != NULL:
            tf.DeleteTensor((&result.tensors[0])[i])
    free(result)
    live_add(LIVE_RESULT, -1)


# -- running

cdef void session_run_tf(void* session, const TF_Buffer* run_options, const TF_Output* feeds, TF_Tensor* const* values,
                         int feed_count, const TF_Output* fetches, TF_Tensor** results, int fetch_count,
                         TF_Status* status) noexcept nogil:
    """The SessionRunFn of a real session."""
    tf.SessionRun(<TF_Session*>session, run_options, feeds, values, feed_count, fetches, results, fetch_count, NULL, 0, NULL, status)


cdef TF_Buffer run_options(uint8_t* room, int64_t timeout_ms, bint pooled) noexcept nogil:
    """Serialized RunOptions in `room` (RUN_OPTIONS_MAX_BYTES)."""
    cdef TF_Buffer buffer
    cdef uint8_t* at = room
    if not pooled:
        at[0] = RUN_OPTIONS_POOL_TAG
        at = wire_put_varint(at + 1, <uint64_t>-1)
    elif timeout_ms > 0:
        at[0] = RUN_OPTIONS_TIMEOUT_TAG
        at = wire_put_varint(at + 1, <uint64_t>timeout_ms)
    buffer.data = room
    buffer.length = at - room
    buffer.data_deallocator = NULL
    return buffer


cdef int session_run(Servable* servable, Plan* plan, FetchSet* fetch, TF_Tensor** feeds, int64_t timeout_ms, bint pooled,
                     RunResult** out, Status* status) noexcept nogil:
    """One run: `feeds` in the order of plan.inputs (still the caller's to delete), results in the order of fetch.index.

    OK with *out held once, or TensorFlow's code and text.  `timeout_ms` <= 0 is none; it has no effect on inline runs.
    Any thread; blocks for the run.
    """
    cdef uint8_t room[RUN_OPTIONS_MAX_BYTES]
    cdef TF_Buffer options = run_options(room, timeout_ms, pooled)
    cdef TF_Status* from_tf
    cdef RunningSlot* slot
    cdef int code
    out[0] = result_new(fetch.count)
    if out[0] == NULL:
        return status_set(status, RESOURCE_EXHAUSTED, "out of memory")
    from_tf = tf.NewStatus()
    slot = crash_enter(servable, plan)
    servable.run(servable.session, &options, plan.feeds, feeds, plan.input_count, fetch.fetches, out[0].tensors, fetch.count,
                 from_tf)
    crash_leave(slot)
    code = status_from_tf(status, from_tf)
    tf.DeleteStatus(from_tf)
    if code != OK:
        result_drop(out[0])
        out[0] = NULL
    return code


# -- loading

cdef int model_load(TfModel* model, bytes path, list tags, bytes config) except -1:
    """Loads the SavedModel; on failure raises TensorFlow's error and leaves nothing behind.  The GIL is released meanwhile."""
    cdef TF_SessionOptions* options = tf.NewSessionOptions()
    cdef TF_Status* from_tf = tf.NewStatus()
    cdef Status status
    cdef const char* c_path = path
    cdef const char* c_config = config
    cdef size_t config_size = len(config)
    cdef int tag_count = len(tags)
    cdef const char** c_tags = <const char**>calloc(tag_count + 1, sizeof(char*))
    cdef int i
    memset(model, 0, sizeof(TfModel))
    memset(&status, 0, sizeof(Status))
    for i in range(tag_count):
        c_tags[i] = <bytes>tags[i]
    with nogil:
        model.graph = tf.NewGraph()
        model.meta_graph = tf.NewBuffer()
        if config_size:
            tf.SetConfig(options, c_config, config_size, from_tf)
        if status_from_tf(&status, from_tf) == OK:
            model.session = tf.LoadSessionFromSavedModel(options, NULL, c_path, c_tags, tag_count, model.graph, model.meta_graph,
                                                         from_tf)
            status_from_tf(&status, from_tf)
        tf.DeleteStatus(from_tf)
        tf.DeleteSessionOptions(options)
        free(c_tags)
        if status.code != OK:
            model.session = NULL
            model_free(model)
    return raise_status(&status)


cdef void model_close(TfModel* model) noexcept nogil:
    """TF_CloseSession: runs in flight end CANCELLED."""
    cdef TF_Status* ignored
    if model.session != NULL:
        ignored = tf.NewStatus()
        tf.CloseSession(model.session, ignored)
        tf.DeleteStatus(ignored)


cdef void model_free(TfModel* model) noexcept nogil:
    """Only when no run is in flight."""
    cdef TF_Status* ignored
    if model.session != NULL:
        ignored = tf.NewStatus()
        tf.DeleteSession(model.session, ignored)
        tf.DeleteStatus(ignored)
    if model.graph != NULL:
        tf.DeleteGraph(model.graph)
    if model.meta_graph != NULL:
        tf.DeleteBuffer(model.meta_graph)
    memset(model, 0, sizeof(TfModel))


cdef bint model_has_accelerator(TfModel* model) noexcept nogil:
    """Whether the session sees a device that is not a CPU."""
    cdef TF_Status* status = tf.NewStatus()
    cdef TF_DeviceList* devices = tf.SessionListDevices(model.session, status)
    cdef const char* kind
    cdef bint found = False
    cdef int i
    if devices != NULL:
        for i in range(tf.DeviceListCount(devices)):
            kind = tf.DeviceListType(devices, i, status)
            if kind != NULL and (strlen(kind) != 3 or memcmp(kind, b"CPU", 3) != 0):
                found = True
        tf.DeleteDeviceList(devices)
    tf.DeleteStatus(status)
    return found
