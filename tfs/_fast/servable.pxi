# servable.pxi: LoadedServable, the Python owner of one loaded version.
#
# Owns: the C Servable with its session, plans and batcher; what the SavedModel says of itself (signatures, warnings).
# Must not know: the serving map's content, retries, versions policy.
# Strategy: `load` is the only way in; `close` is idempotent, ends runs in flight, waits for the last hold, and frees.  The data path
# sees only the C struct, which lives until `holds` is zero.

PYTHON_FUNCTION_WARNING = (
    "the graph calls back into Python (%s), which lives only in the process that saved it: calls that reach it will fail; "
    "export the model without tf.py_function / tf.numpy_function")

cdef enum:
    # Clients choose the sets; TensorFlow builds (30 ms) and keeps (300 kB) an executor for each.
    MAX_UNIONS = 16


cdef class LoadedServable:
    """One loaded version: session, plans and counters.  Made by `LoadedServable.load`; freed by `close`."""

    cdef object __weakref__
    cdef Servable* core
    cdef TfModel model
    cdef object session_owner      # the fake session of a test, else None
    cdef list keep                 # bytes that the plans' spans point into
    cdef object define_lock
    cdef int unions                # made by define_union
    cdef object close_lock
    cdef readonly str name
    cdef readonly int64_t version
    cdef readonly dict signature_defs
    cdef readonly list warnings

    def __cinit__(self):
        self.core = NULL
        memset(&self.model, 0, sizeof(TfModel))
        self.keep = []
        self.signature_defs = {}
        self.warnings = []
        self.define_lock = threading.Lock()
        self.close_lock = threading.Lock()

    def __init__(self):
        raise TypeError("use LoadedServable.load")

    def __dealloc__(self):
        if self.core != NULL:
            self.release_core()

    @staticmethod
    cdef LoadedServable new(str name, int64_t version):
        cdef LoadedServable self = LoadedServable.__new__(LoadedServable)
        cdef bytes raw = name.encode()
        self.name = name
        self.version = version
        self.core = <Servable*>calloc(1, sizeof(Servable))
        if self.core == NULL:
            raise MemoryError
        live_add(LIVE_SERVABLE, 1)
        pthread_mutex_init(&self.core.lock, NULL)
        cond_init(&self.core.unused)
        self.keep.append(raw)
        self.core.name = bytes_span(raw)
        self.core.version = version
        return self

    @staticmethod
    def load(str name, int64_t version, str path, *, tags, bytes session_config=b"", bint heal=True):
        """Loads the SavedModel in `path`.  Blocks without the GIL.  Any thread.  Raises TfsError with TensorFlow's code and text."""
        cdef LoadedServable self = LoadedServable.new(name, version)
        if tf.LoadSessionFromSavedModel == NULL:
            raise errors.FailedPrecondition("TensorFlow is not loaded: call load_runtime first")
        model_load(&self.model, os.fsencode(path), [tag.encode() for tag in tags], session_config)
        self.core.session = self.model.session
        self.core.run = session_run_tf
        self.read_meta_graph(heal)
        tf.DeleteBuffer(self.model.meta_graph)
        self.model.meta_graph = NULL
        return self

    cdef int read_meta_graph(self, bint heal) except -1:
        cdef Span meta, graph
        cdef GraphIndex index
        cdef int failed
        cdef list twins
        meta.ptr = <const uint8_t*>self.model.meta_graph.data
        meta.len = self.model.meta_graph.length
        memset(&graph, 0, sizeof(Span))
        self.read_signatures(meta)
        with nogil:
            graph_field(meta, META_GRAPH_DEF, &graph)
            failed = graph_open(&index, graph)
        try:
            if failed < 0:
                raise errors.DataLoss("the GraphDef of the SavedModel is malformed")
            variables = self.judge_plans(&index)
            twins = graph_twin_assigns(&index) if variables and heal else []
        finally:
            graph_close(&index)
        if variables and heal:
            self.warnings += heal_model(&self.model, twins, list(variables))
        return 0

    cdef int read_signatures(self, Span meta) except -1:
        cdef Cursor cursor = wire_cursor(meta)
        cdef uint32_t field, kind
        cdef Span entry
        cdef dict found = {}
        while cursor.at < cursor.end:
            if wire_tag(&cursor, &field, &kind) < 0:
                raise errors.DataLoss("the MetaGraphDef of the SavedModel is malformed")
            if field != META_SIGNATURE or kind != WIRE_BYTES:
                if wire_skip(&cursor, field, kind) < 0:
                    raise errors.DataLoss("the MetaGraphDef of the SavedModel is malformed")
                continue
            if wire_bytes(&cursor, &entry) < 0:
                raise errors.DataLoss("the MetaGraphDef of the SavedModel is malformed")
            parts = dict(message_fields(entry))
            found[parts.get(MAP_KEY, b"")] = parts.get(MAP_VALUE, b"")
        for name, signature in sorted(found.items()):
            self.signature_defs[name.decode("utf-8", "replace")] = signature
            self.add_plan(plan_from_signature(self.model.graph, name, signature, self.keep))
        return 0

    cdef void add_plan(self, Plan* plan) noexcept:
        """Published last, with everything else of it in place: readers walk the list without a lock."""
        plan.next = self.core.plans
        if span_is(plan.signature, "serving_default"):
            self.core.default_plan = plan
        atomic_swap_ptr(&self.core.plans, plan)

    cdef int check_open(self) except -1:
        if self.core == NULL:
            raise errors.FailedPrecondition(f"version {self.version} of model {self.name} is closed")
        return 0

    cdef set judge_plans(self, GraphIndex* index):
        """Sets each plan's traits; warns of Python functions; returns the variables that some signature reads."""
        cdef Plan* plan = self.core.plans
        cdef bint accelerator = model_has_accelerator(&self.model)
        cdef set variables = set()
        cdef set python_ops = set()
        cdef set ops
        cdef int32_t i
        functions = {span_bytes(index.nodes[i].name) for i in range(index.node_count, index.count)}
        while plan != NULL:
            ops = set()
            graph_reach(index, [span_bytes(plan.outputs[i].tensor) for i in range(plan.output_count)],
                        [span_bytes(plan.inputs[i].tensor) for i in range(plan.input_count)], ops, variables)
            plan.traits = op_traits(ops, functions) | (GRAPH_MANY_DEVICES if accelerator else 0)
            if plan.traits & GRAPH_ABORTS_ON_RANK:
                rank_free(index, plan)
            python_ops |= ops & PYTHON_OPS
            plan = plan.next
        if python_ops:
            self.warnings.append(PYTHON_FUNCTION_WARNING % ", ".join(sorted(op.decode() for op in python_ops)))
        return variables

    def define_union(self, signatures):
        """Makes (once) the hidden signature that feeds and fetches all distinct tensors of `signatures` in one run; returns its name.

        Aliases of the hidden signature are tensor names.  None when there are MAX_UNIONS others.  Any thread.  Raises InvalidArgument for
        an unknown signature.
        """
        cdef bytes name = b"\0union\0" + b"\0".join(sorted({signature.encode() for signature in signatures}))
        cdef bytes raw
        cdef dict inputs = {}, outputs = {}, ranks = {}
        cdef Plan* plan
        cdef Plan* part
        cdef int32_t i
        self.check_open()
        with self.define_lock:
            if plan_find(self.core, bytes_span(name)) == NULL:
                if self.unions >= MAX_UNIONS:
                    return None
                traits = GRAPH_STATELESS
                for signature in signatures:
                    raw = signature.encode()          # held until the look-up is done
                    part = plan_find(self.core, bytes_span(raw))
                    if part == NULL:
                        raise errors.InvalidArgument(f"Requested signature not found in model graph: {signature}")
                    traits = (traits | part.traits) & ~(GRAPH_STATELESS & ~part.traits)
                    for i in range(part.input_count):
                        tensor = span_bytes(part.inputs[i].tensor)
                        ranks[tensor] = max(part.inputs[i].rank, ranks.get(tensor, -1))
                    fields = message_fields(bytes_span(self.signature_defs[signature]))
                    for info in message_map(fields, SIGNATURE_INPUTS).values():
                        inputs[dict(message_fields(bytes_span(info)))[INFO_NAME]] = info
                    for info in message_map(fields, SIGNATURE_OUTPUTS).values():
                        outputs[dict(message_fields(bytes_span(info)))[INFO_NAME]] = info
                plan = plan_make(self.model.graph, name, inputs, outputs, {}, self.keep)
                plan.traits = traits
                for i in range(plan.input_count):
                    plan.inputs[i].rank = ranks[span_bytes(plan.inputs[i].tensor)]
                self.add_plan(plan)
                self.unions += 1
        return name.decode()

    def is_stateless(self, str signature not None):
        """Whether all ops of `signature` are known to have no state, so that one more run changes nothing.  False if there is no such
        signature.  Any thread.  Raises FailedPrecondition after `close`."""
        cdef bytes name = signature.encode()
        cdef Plan* plan
        self.check_open()
        plan = plan_find(self.core, bytes_span(name))
        return plan != NULL and (plan.traits & GRAPH_STATELESS) != 0

    def enable_batching(self, BatchThreads threads not None, **parameters):
        """Before publishing: calls are joined to batches from now on.  Fields of BatchingParameters, None = the reference's default.

        Raises InvalidArgument with the reference's texts, FailedPrecondition after `close`.
        """
        self.check_open()
        batch_enable(self.core, threads, parameters)

    def update_batching(self, **parameters):
        """New settings for the batches to come, while running; nothing where batching is off.  Raises as enable_batching."""
        cdef BatchParams params
        batch_params_make(parameters, &params)
        if self.core == NULL:
            free(params.allowed)
        else:
            batch_update(self.core, &params)

    def wait_unused(self, double timeout_s):
        """After it left the map: waits (without the GIL) until no call holds it; False when the time is up.  Not while another thread
        closes it."""
        cdef int64_t until = now_ns() + <int64_t>(timeout_s * NS_PER_S)
        cdef bint unused = True
        if self.core != NULL:
            with nogil:
                unused = servable_wait_unused(self.core, until)
        return unused

    def close(self):
        """Ends runs in flight (CANCELLED), waits for the last hold, frees everything.  Idempotent, from several threads too: each returns
        when it is freed.  Not on the loop's thread."""
        with self.close_lock:                        # who waits for the last hold must not find the lock it waits on freed
            if self.core == NULL:
                return
            with nogil:
                model_close(&self.model)
                servable_wait_unused(self.core, INT64_MAX)
            self.release_core()

    cdef void release_core(self) noexcept:
        cdef Servable* core = self.core
        cdef Plan* plan
        self.core = NULL
        with nogil:
            batch_disable(core)
            while core.plans != NULL:
                plan = core.plans
                core.plans = plan.next
                plan_free(plan)
            if self.model.graph != NULL:
                model_free(&self.model)
            pthread_mutex_destroy(&core.lock)
            pthread_cond_destroy(&core.unused)
            free(core)
            live_add(LIVE_SERVABLE, -1)
