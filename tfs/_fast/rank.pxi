# rank.pxi: whether the rank of an input may become the rank of a tensor that a rank-checking op gets.
#
# Owns: the walk from such ops back to the inputs of a signature.  Must not know: requests.  Only at load, and only for graphs that have one.
# Strategy: anything is taken to pass a rank on, but ops whose result has its own (RANK_FIXED_OPS, and a Reshape to a shape of fixed
# length).  Functions are walked the same way: which of its arguments reach such an op inside decides which inputs of a call do.

cdef frozenset RANK_FIXED_OPS = frozenset(b"Const ReadVariableOp VarHandleOp Shape Size Rank".split())
cdef frozenset RANK_FIXED_SHAPES = frozenset(b"Const Pack".split())   # always as long as the graph says

cdef frozenset RANK_CALLS = frozenset(b"PartitionedCall StatefulPartitionedCall".split())

cdef enum:
    OPDEF_INPUT = 2
    # Where the signature declares as many dimensions as a rank-checking op wants, TensorFlow's optimizer may find a Reshape needless.
    RANK_FREE_BELOW = 4


cdef list rank_called(GraphIndex* index, Span body):
    """Indexes of the functions that a NodeDef names.  Wants all functions unseen, and leaves them so."""
    cdef int32_t at
    cdef list found = []
    graph_push_node(index, body, True)
    while index.depth:
        index.depth -= 1
        at = index.stack[index.depth]
        index.nodes[at].seen = 0
        found.append(at)
    return found


cdef int rank_add(GraphIndex* index, dict nodes, Span body) except -1:
    """Adds a NodeDef: name -> (op, names of its inputs, functions)."""
    cdef Span name, op
    if graph_field(body, NODE_NAME, &name) and graph_field(body, NODE_OP, &op):
        nodes[span_bytes(name)] = span_bytes(op), graph_inputs(body), rank_called(index, body)
    return 0


cdef list rank_arguments(Span function):
    """Names of a FunctionDef's arguments, in order."""
    cdef Span signature
    if not graph_field(function, FUNCTION_SIGNATURE, &signature):
        return []
    return [dict(message_fields(bytes_span(argument))).get(OPDEF_NAME, b"")
            for field, argument in message_fields(signature) if field == OPDEF_INPUT]


cdef set rank_function(GraphIndex* index, int32_t at, dict known):
    """Numbers of the arguments of function `at` that reach a rank-checking op inside.  `known`: what was found before."""
    cdef Cursor cursor = wire_cursor(index.nodes[at].body)
    cdef uint32_t field, kind
    cdef Span body
    cdef dict nodes = {}
    cdef list arguments
    if at in known:
        return known[at]
    arguments = rank_arguments(index.nodes[at].body)
    known[at] = set(range(len(arguments)))       # for a function that calls itself
    while cursor.at < cursor.end:
        if wire_tag(&cursor, &field, &kind) < 0:
            return known[at]
        if field != FUNCTION_NODE or kind != WIRE_BYTES:
            if wire_skip(&cursor, field, kind) < 0:
                return known[at]
            continue
        if wire_bytes(&cursor, &body) < 0:
            return known[at]
        rank_add(index, nodes, body)
    origins = rank_origins(index, nodes, known)
    known[at] = {number for number, name in enumerate(arguments) if name in origins}
    return known[at]


cdef list rank_reaching(GraphIndex* index, bytes op, list inputs, list called, dict known):
    """The inputs of a node that reach a rank-checking op: this one, or one inside a function that it calls."""
    cdef set numbers = set()
    if op in RANK_CHECKING_OPS:
        return inputs
    for at in called:
        numbers |= rank_function(index, at, known)
    if not numbers or op not in RANK_CALLS:      # loops and conditions have inputs of their own
        return inputs if numbers else []
    return [name for number, name in enumerate(inputs) if number in numbers]


cdef bint rank_fixed(dict nodes, bytes op, list inputs):
    """Whether an op's result has a rank that no input decides."""
    if op == b"Reshape" and len(inputs) == 2 and inputs[1] in nodes:
        return nodes[inputs[1]][0] in RANK_FIXED_SHAPES
    return op in RANK_FIXED_OPS


cdef set rank_origins(GraphIndex* index, dict nodes, dict known):
    """Names of inputs outside `nodes` (arguments of a function, fed nodes) whose rank may reach a rank-checking op."""
    cdef set origins = set(), seen = set()
    cdef list reached = []
    for op, inputs, called in nodes.values():
        reached += rank_reaching(index, op, inputs, called, known)
    while reached:
        name = reached.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in nodes:
            origins.add(name)
            continue
        op, inputs, _ = nodes[name]
        if not rank_fixed(nodes, op, inputs):
            reached += inputs
    return origins


cdef int rank_free(GraphIndex* index, Plan* plan) except -1:
    """Sets the rank of inputs to "any" where it does not matter.  After graph_reach, whose marks it uses up."""
    cdef int32_t i
    cdef dict nodes = {}
    cdef set origins
    cdef list low = [i for i in range(plan.input_count) if 0 <= plan.inputs[i].rank < RANK_FREE_BELOW]
    if not low:
        return 0
    fed = {span_bytes(graph_input_node(plan.inputs[i].tensor)) for i in range(plan.input_count)}
    for i in range(index.node_count, index.count):
        index.nodes[i].seen = 0
    for i in range(index.node_count):
        if index.nodes[i].seen and span_bytes(index.nodes[i].name) not in fed:
            rank_add(index, nodes, index.nodes[i].body)
    origins = rank_origins(index, nodes, {})
    for i in low:
        if span_bytes(graph_input_node(plan.inputs[i].tensor)) not in origins:
            plan.inputs[i].rank = -1
    return 0
