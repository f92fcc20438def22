# signature.pxi: SignatureDef bytes -> Plan, once per signature at load.
#
# Owns: the reading of SignatureDef and TensorInfo (meta_graph.proto), the lookup of their nodes in the graph.  Must not know: sessions.
# Strategy: with the GIL, Python containers and exceptions: this is cold.  The plan's spans point into bytes objects that the
# LoadedServable keeps alive as long as the plan.

cdef enum:
    SIGNATURE_INPUTS = 1
    SIGNATURE_OUTPUTS = 2
    SIGNATURE_METHOD = 3
    SIGNATURE_DEFAULTS = 4
    INFO_NAME = 1
    INFO_DTYPE = 2
    INFO_SHAPE = 3
    SHAPE_DIM = 2
    SHAPE_UNKNOWN_RANK = 3
    META_GRAPH_DEF = 2
    META_SIGNATURE = 5


cdef list message_fields(Span message):
    """[(field number, Span as (address, length) for bytes fields or the number for varints)] of one message."""
    cdef Cursor cursor = wire_cursor(message)
    cdef uint32_t field, kind
    cdef uint64_t number
    cdef Span value
    cdef list found = []
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &kind) < 0:
            raise errors.DataLoss("a message of the SavedModel is malformed")
        if kind == WIRE_BYTES and wire_bytes(&cursor, &value) == 0:
            found.append((field, span_bytes(value)))
        elif kind == WIRE_VARINT and wire_varint(&cursor, &number) == 0:
            found.append((field, number))
        elif kind in (WIRE_BYTES, WIRE_VARINT) or wire_skip(&cursor, field, kind) < 0:
            raise errors.DataLoss("a message of the SavedModel is malformed")
    return found


cdef dict message_map(list fields, uint32_t wanted):
    """map<string, message> field -> {key: value bytes}."""
    cdef dict found = {}
    for field, entry in fields:
        if field == wanted and isinstance(entry, bytes):
            parts = dict(message_fields(bytes_span(entry)))
            found[parts.get(MAP_KEY, b"")] = parts.get(MAP_VALUE, b"")
    return found


cdef int graph_output(TF_Graph* graph, bytes tensor, TF_Output* output) except -1:
    """`node:k` (or `node`) -> TF_Output; oper NULL when the graph has no such node."""
    cdef bytes node = tensor
    cdef bytes index = b"0"
    if b":" in tensor:
        node, index = tensor.rsplit(b":", 1)
    output.oper = tf.GraphOperationByName(graph, node) if graph != NULL else <TF_Operation*>1
    output.index = int(index) if index.isdigit() else 0
    return 0


cdef struct SlotInfo:              # what InputSlot and OutputSlot have in common
    Span alias
    Span tensor
    int32_t dtype
    int32_t rank
    TF_Output place


cdef int32_t declared_rank(dict info) except -2:
    """Of a TensorInfo's fields: the number of dimensions, -1 where it is free or not said."""
    cdef list shape
    if INFO_SHAPE not in info:
        return -1
    shape = message_fields(bytes_span(info[INFO_SHAPE]))
    if dict(shape).get(SHAPE_UNKNOWN_RANK):
        return -1
    return len([field for field, _ in shape if field == SHAPE_DIM])


cdef int slot_read(SlotInfo* slot, TF_Graph* graph, bytes alias, bytes info, list keep) except -1:
    cdef dict parts = dict(message_fields(bytes_span(info)))
    cdef bytes tensor = parts.get(INFO_NAME, b"")
    keep += [alias, tensor]
    slot.alias = bytes_span(alias)
    slot.tensor = bytes_span(tensor)
    slot.dtype = parts.get(INFO_DTYPE, 0)
    slot.rank = declared_rank(parts)
    return graph_output(graph, tensor, &slot.place)


cdef Plan* plan_new(int32_t inputs, int32_t outputs) except NULL:
    cdef Plan* plan = <Plan*>calloc(1, sizeof(Plan))
    if plan == NULL:
        raise MemoryError
    pthread_mutex_init(&plan.lock, NULL)
    plan.input_count = inputs
    plan.output_count = outputs
    plan.broken_input = -1
    plan.inputs = <InputSlot*>calloc(inputs + 1, sizeof(InputSlot))
    plan.outputs = <OutputSlot*>calloc(outputs + 1, sizeof(OutputSlot))
    plan.feeds = <TF_Output*>calloc(inputs + 1, sizeof(TF_Output))
    live_add(LIVE_PLAN, 1)
    if plan.inputs == NULL or plan.outputs == NULL or plan.feeds == NULL:
        plan_free(plan)
        raise MemoryError
    return plan


cdef int plan_fill(Plan* plan, TF_Graph* graph, dict inputs, dict outputs, dict defaults, list keep) except -1:
    """Slots in alias order; `inputs` and `outputs` map alias -> TensorInfo bytes."""
    cdef SlotInfo info
    cdef InputSlot* slot
    cdef OutputSlot* target
    cdef int32_t i
    cdef int32_t* index
    for i, alias in enumerate(sorted(inputs)):
        slot_read(&info, graph, alias, inputs[alias], keep)
        slot = &plan.inputs[i]
        slot.alias, slot.tensor, slot.dtype, slot.rank = info.alias, info.tensor, info.dtype, info.rank
        plan.feeds[i] = info.place
        if info.place.oper == NULL:
            plan.broken_input = i
        if alias in defaults:
            slot.fallback = default_tensor(defaults[alias])
            plan.has_defaults = 1
    for i, alias in enumerate(sorted(outputs)):
        slot_read(&info, graph, alias, outputs[alias], keep)
        target = &plan.outputs[i]
        target.alias, target.tensor, target.fetch = info.alias, info.tensor, info.place
    index = <int32_t*>malloc((plan.output_count + 1) * sizeof(int32_t))
    for i in range(plan.output_count):
        index[i] = i
    plan.everything = fetch_new(plan, index, plan.output_count)
    free(index)
    if plan.everything == NULL:
        raise MemoryError
    return 0


cdef TF_Tensor* default_tensor(bytes proto) except? NULL:
    """The tensor of SignatureDef.defaults; an undecodable one counts as absent (the reference refuses it only when it is needed)."""
    cdef Arena arena
    cdef TensorSpan span
    cdef Span alias
    cdef TF_Tensor* made = NULL
    memset(&alias, 0, sizeof(Span))
    arena_init(&arena)
    if tensor_decode(bytes_span(proto), alias, &arena, &span) == 0 and not span.bad:
        made = tensor_make(&span)
    arena_free(&arena)
    return made


cdef Plan* plan_make(TF_Graph* graph, bytes name, dict inputs, dict outputs, dict defaults, list keep) except NULL:
    """A filled plan called `name`; nothing is left behind when it raises."""
    cdef Plan* plan = plan_new(len(inputs), len(outputs))
    keep.append(name)
    plan.signature = bytes_span(name)
    try:
        plan_fill(plan, graph, inputs, outputs, defaults, keep)
    except BaseException:
        plan_free(plan)
        raise
    return plan


cdef Plan* plan_from_signature(TF_Graph* graph, bytes name, bytes signature, list keep) except NULL:
    cdef list fields = message_fields(bytes_span(signature))
    cdef dict inputs = message_map(fields, SIGNATURE_INPUTS)
    cdef dict outputs = message_map(fields, SIGNATURE_OUTPUTS)
    cdef bytes method = dict(fields).get(SIGNATURE_METHOD, b"")
    cdef Plan* plan = plan_make(graph, name, inputs, outputs, message_map(fields, SIGNATURE_DEFAULTS), keep)
    keep.append(method)
    plan.method_name = bytes_span(method)
    return plan
