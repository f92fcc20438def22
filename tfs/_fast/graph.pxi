# graph.pxi: reads a GraphDef by wire format: which ops a signature reaches, which variables the graph has.
#
# Owns: GraphIndex, a name index over the nodes and functions of one GraphDef, alive only during a load.  Must not know: sessions.
# Strategy: parsing a 60 MB MetaGraphDef with protobuf holds the GIL for 300 ms; here one pass records a span per node (name, op,
# first byte), hashes the names, and only nodes that a signature reaches are looked into.  Field numbers: tensorflow's graph.proto,
# node_def.proto, function.proto, attr_value.proto, op_def.proto.

cdef enum:
    GRAPH_NODE = 1
    GRAPH_LIBRARY = 2
    NODE_NAME = 1
    NODE_OP = 2
    NODE_INPUT = 3
    NODE_ATTR = 5
    LIBRARY_FUNCTION = 1
    FUNCTION_SIGNATURE = 1
    FUNCTION_NODE = 3
    FUNCTION_ATTR = 5
    OPDEF_NAME = 1
    MAP_KEY = 1
    MAP_VALUE = 2
    ATTR_LIST = 1
    ATTR_BOOL = 5
    ATTR_TYPE = 6
    ATTR_FUNC = 10
    LIST_FUNC = 9
    NAME_ATTR_LIST_NAME = 1

cdef struct GraphNode:             # a node of the main graph, or a function (op empty, body = FunctionDef)
    Span name
    Span op
    Span body
    int32_t next                   # chain of its hash bucket, -1 ends it
    int32_t seen                   # visited by the walk under way

cdef struct GraphIndex:
    GraphNode* nodes
    int32_t count
    int32_t capacity
    int32_t node_count             # nodes come first, functions after them
    int32_t* buckets
    uint32_t mask
    int32_t* stack                 # of the walk: indexes to visit
    int32_t depth
    int32_t must_compile           # the walk met a function that XLA compiles (jit_compile=True), once per input shape


cdef inline uint64_t span_hash(Span span) noexcept nogil:
    """FNV-1a."""
    cdef uint64_t value = 14695981039346656037ULL
    cdef size_t i
    for i in range(span.len):
        value = (value ^ span.ptr[i]) * 1099511628211ULL
    return value


cdef int graph_add(GraphIndex* index, Span name, Span op, Span body) noexcept nogil:
    cdef GraphNode* grown
    cdef int32_t capacity
    if index.count == index.capacity:
        capacity = index.capacity * 2 if index.capacity else 256
        grown = <GraphNode*>realloc(index.nodes, capacity * sizeof(GraphNode))
        if grown == NULL:
            return -1
        index.nodes = grown
        index.capacity = capacity
    index.nodes[index.count].name = name
    index.nodes[index.count].op = op
    index.nodes[index.count].body = body
    index.nodes[index.count].seen = 0
    index.count += 1
    return 0


cdef int graph_field(Span message, uint32_t wanted, Span* found) noexcept nogil:
    """The last length-delimited field `wanted` of a message; 1 found, 0 absent or malformed."""
    cdef Cursor cursor = wire_cursor(message)
    cdef uint32_t field, kind
    cdef int result = 0
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &kind) < 0:
            return result
        if field == wanted and kind == WIRE_BYTES:
            if wire_bytes(&cursor, found) < 0:
                return result
            result = 1
        elif wire_skip(&cursor, field, kind) < 0:
            return result
    return result


cdef int graph_scan_nodes(GraphIndex* index, Span graph) noexcept nogil:
    cdef Cursor cursor = wire_cursor(graph)
    cdef uint32_t field, kind
    cdef Span body, name, op
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &kind) < 0:
            return -1
        if field != GRAPH_NODE or kind != WIRE_BYTES:
            if wire_skip(&cursor, field, kind) < 0:
                return -1
            continue
        memset(&name, 0, sizeof(Span))
        memset(&op, 0, sizeof(Span))
        if wire_bytes(&cursor, &body) < 0:
            return -1
        graph_field(body, NODE_NAME, &name)
        graph_field(body, NODE_OP, &op)
        if graph_add(index, name, op, body) < 0:
            return -1
    index.node_count = index.count
    return 0


cdef int graph_scan_functions(GraphIndex* index, Span library) noexcept nogil:
    cdef Cursor cursor = wire_cursor(library)
    cdef uint32_t field, kind
    cdef Span body, signature, name, op
    memset(&op, 0, sizeof(Span))
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &kind) < 0:
            return -1
        if field != LIBRARY_FUNCTION or kind != WIRE_BYTES:
            if wire_skip(&cursor, field, kind) < 0:
                return -1
            continue
        if wire_bytes(&cursor, &body) < 0:
            return -1
        if graph_field(body, FUNCTION_SIGNATURE, &signature) and graph_field(signature, OPDEF_NAME, &name):
            if graph_add(index, name, op, body) < 0:
                return -1
    return 0


cdef int graph_open(GraphIndex* index, Span graph) noexcept nogil:
    """Indexes a GraphDef; 0, or -1 when malformed or out of memory.  graph_close in either case."""
    cdef Span library
    cdef int32_t i
    cdef uint32_t size = 256
    memset(index, 0, sizeof(GraphIndex))
    if graph_scan_nodes(index, graph) < 0:
        return -1
    if graph_field(graph, GRAPH_LIBRARY, &library) and graph_scan_functions(index, library) < 0:
        return -1
    while size < <uint32_t>index.count * 2:
        size *= 2
    index.mask = size - 1
    index.buckets = <int32_t*>malloc(size * sizeof(int32_t))
    index.stack = <int32_t*>malloc((index.count + 1) * sizeof(int32_t))
    if index.buckets == NULL or index.stack == NULL:
        return -1
    memset(index.buckets, 0xFF, size * sizeof(int32_t))
    for i in range(index.count):
        size = <uint32_t>span_hash(index.nodes[i].name) & index.mask
        index.nodes[i].next = index.buckets[size]
        index.buckets[size] = i
    return 0


cdef void graph_close(GraphIndex* index) noexcept nogil:
    free(index.nodes)
    free(index.buckets)
    free(index.stack)
    memset(index, 0, sizeof(GraphIndex))


cdef int32_t graph_find(GraphIndex* index, Span name, bint function) noexcept nogil:
    """Index of the node (or function) called `name`, -1 = none."""
    cdef int32_t i = index.buckets[<uint32_t>span_hash(name) & index.mask]
    while i >= 0:
        if span_equal(index.nodes[i].name, name) and (i >= index.node_count) == function:
            return i
        i = index.nodes[i].next
    return -1


cdef Span graph_input_node(Span text) noexcept nogil:
    """`^node`, `node:1` -> `node`."""
    cdef const uint8_t* colon
    if text.len > 0 and text.ptr[0] == c'^':
        text.ptr += 1
        text.len -= 1
    colon = <const uint8_t*>memchr(text.ptr, c':', text.len) if text.len else NULL
    if colon != NULL:
        text.len = colon - text.ptr
    return text


cdef void graph_push(GraphIndex* index, Span name, bint function) noexcept nogil:
    cdef int32_t i = graph_find(index, name, function)
    if i >= 0 and not index.nodes[i].seen:
        index.nodes[i].seen = 1
        index.stack[index.depth] = i
        index.depth += 1


cdef void graph_push_functions(GraphIndex* index, Span value) noexcept nogil:
    """Functions named by an AttrValue: `func` and `list.func`."""
    cdef Span func, name
    cdef Cursor cursor
    cdef uint32_t field, kind
    if graph_field(value, ATTR_FUNC, &func) and graph_field(func, NAME_ATTR_LIST_NAME, &name):
        graph_push(index, name, True)
    if graph_field(value, ATTR_LIST, &func):
        cursor = wire_cursor(func)
        while cursor.at < cursor.end:
            if wire_tag(&cursor, &field, &kind) < 0:
                return
            if field == LIST_FUNC and kind == WIRE_BYTES:
                if wire_bytes(&cursor, &func) < 0:
                    return
                if graph_field(func, NAME_ATTR_LIST_NAME, &name):
                    graph_push(index, name, True)
            elif wire_skip(&cursor, field, kind) < 0:
                return


cdef void graph_see_attr(GraphIndex* index, Span entry) noexcept nogil:
    """One entry of an attribute map: functions it names, and whether it asks for XLA."""
    cdef Span key, value
    cdef Cursor inner
    cdef uint32_t field, kind
    cdef uint64_t number
    if not graph_field(entry, MAP_VALUE, &value):
        return
    graph_push_functions(index, value)
    if not graph_field(entry, MAP_KEY, &key) or not span_is(key, "_XlaMustCompile"):
        return
    inner = wire_cursor(value)
    if wire_tag(&inner, &field, &kind) == 0 and field == ATTR_BOOL and kind == WIRE_VARINT and wire_varint(&inner, &number) == 0:
        index.must_compile |= number != 0


cdef void graph_push_node(GraphIndex* index, Span body, bint in_function) noexcept nogil:
    """Pushes what a NodeDef leads to: its inputs (main graph only: a function body is walked whole) and its functions."""
    cdef Cursor cursor = wire_cursor(body)
    cdef uint32_t field, kind
    cdef Span value
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &kind) < 0:
            return
        if kind != WIRE_BYTES:
            if wire_skip(&cursor, field, kind) < 0:
                return
            continue
        if wire_bytes(&cursor, &value) < 0:
            return
        if field == NODE_INPUT and not in_function:
            graph_push(index, graph_input_node(value), False)
        elif field == NODE_OP:
            graph_push(index, value, True)           # an op whose type is a function's name: a call
        elif field == NODE_ATTR:
            graph_see_attr(index, value)


cdef int graph_collect(GraphIndex* index, set ops, set variables) except -1:
    """Walks from what is on the stack; adds the op types met to `ops` and names of VarHandleOp nodes to `variables`."""
    cdef int32_t at
    cdef Cursor cursor
    cdef uint32_t field, kind
    cdef Span body, op
    while index.depth:
        index.depth -= 1
        at = index.stack[index.depth]
        if at < index.node_count:
            op = index.nodes[at].op
            name = span_bytes(op)
            ops.add(name)
            if name == b"VarHandleOp":
                variables.add(span_bytes(index.nodes[at].name))
            graph_push_node(index, index.nodes[at].body, False)
            continue
        cursor = wire_cursor(index.nodes[at].body)
        while cursor.at < cursor.end:
            if wire_tag(&cursor, &field, &kind) < 0:
                break
            if (field != FUNCTION_NODE and field != FUNCTION_ATTR) or kind != WIRE_BYTES:
                if wire_skip(&cursor, field, kind) < 0:
                    break
                continue
            if wire_bytes(&cursor, &body) < 0:
                break
            if field == FUNCTION_ATTR:
                graph_see_attr(index, body)
                continue
            if graph_field(body, NODE_OP, &op):
                ops.add(span_bytes(op))
            graph_push_node(index, body, True)
    if index.must_compile:
        ops.add(b"_XlaMustCompile")
    return 0


cdef int graph_reach(GraphIndex* index, list roots, list cuts, set ops, set variables) except -1:
    """Ops and variables that the tensors `roots` (names as bytes) need when the tensors `cuts` are fed."""
    cdef int32_t i
    cdef Span span
    index.must_compile = 0
    for i in range(index.count):
        index.nodes[i].seen = 0
    for name in cuts:
        i = graph_find(index, graph_input_node(bytes_span(name)), False)
        if i >= 0:
            index.nodes[i].seen = 1
    for name in roots:
        graph_push(index, graph_input_node(bytes_span(name)), False)
    return graph_collect(index, ops, variables)


cdef list graph_twin_assigns(GraphIndex* index):
    """[(X, Y, dtype)]: variable X is assigned, in its initializer, from a read of another variable Y.

    Keras 3's twin variables (`tf.saved_model.save` of a Keras model): the checkpoint restores X, the signature reads Y.
    """
    cdef int32_t i, read
    cdef list inputs, found = []
    for i in range(index.node_count):
        if span_bytes(index.nodes[i].op) != b"AssignVariableOp":
            continue
        inputs = graph_inputs(index.nodes[i].body)
        if len(inputs) < 2 or not (<bytes>inputs[1]).endswith(b"/Initializer/ReadVariableOp"):
            continue
        read = graph_find(index, bytes_span(inputs[1]), False)
        if read < 0 or span_bytes(index.nodes[read].op) != b"ReadVariableOp":
            continue
        source = graph_inputs(index.nodes[read].body)
        if source and source[0] != inputs[0]:
            found.append((inputs[0], source[0], graph_dtype(index.nodes[i].body)))
    return found


cdef list graph_inputs(Span body):
    """Node names of a NodeDef's inputs, control inputs left out."""
    cdef Cursor cursor = wire_cursor(body)
    cdef uint32_t field, kind
    cdef Span value
    cdef list names = []
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &kind) < 0:
            break
        if field == NODE_INPUT and kind == WIRE_BYTES:
            if wire_bytes(&cursor, &value) < 0:
                break
            if value.len and value.ptr[0] != c'^':
                names.append(span_bytes(graph_input_node(value)))
        elif wire_skip(&cursor, field, kind) < 0:
            break
    return names


cdef int graph_dtype(Span body) noexcept nogil:
    """The `dtype` attribute of a NodeDef, 0 = none."""
    cdef Cursor cursor = wire_cursor(body)
    cdef Cursor inner
    cdef uint32_t field, kind
    cdef uint64_t number
    cdef Span entry, key, value
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &kind) < 0:
            return 0
        if field != NODE_ATTR or kind != WIRE_BYTES:
            if wire_skip(&cursor, field, kind) < 0:
                return 0
            continue
        if wire_bytes(&cursor, &entry) < 0:
            return 0
        if not graph_field(entry, MAP_KEY, &key) or key.len != 5 or memcmp(key.ptr, b"dtype", 5) != 0:
            continue
        if graph_field(entry, MAP_VALUE, &value):
            inner = wire_cursor(value)
            if wire_tag(&inner, &field, &kind) == 0 and field == ATTR_TYPE and wire_varint(&inner, &number) == 0:
                return <int>number
    return 0
