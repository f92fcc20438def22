# batch_assemble.pxi: the rows of many calls -> one tensor per input, and the pieces of a split call -> one result.
#
# Owns: where each row goes.  Must not know: queues, threads, who gets the answer.
# Strategy: a call's values are written once, by tensor_fill, straight into the batch's tensor.  Only what cannot be written so goes
# through a whole tensor of its own: the pieces of a split call, a row shape that is padded, a signature's default.

cdef void batch_copy(int dtype, void* to, int64_t to_at, const void* source, int64_t source_at, int64_t count) noexcept nogil:
    """`count` elements; positions in elements."""
    cdef size_t size = tensor_size(dtype)
    cdef const TF_TString* strings = <const TF_TString*>source
    cdef int64_t i
    if dtype != DTYPE_STRING:
        memcpy(<uint8_t*>to + to_at * size, <const uint8_t*>source + source_at * size, count * size)
        return
    for i in range(count):
        tf.StringCopy(<TF_TString*>to + to_at + i, tf.StringGetDataPointer(strings + source_at + i),
                      tf.StringGetSize(strings + source_at + i))


cdef int64_t batch_row_width(const int64_t* dims, int rank) noexcept nogil:
    cdef int64_t width = 1
    cdef int d
    for d in range(1, rank):
        width *= dims[d]
    return width


cdef void batch_copy_padded(int dtype, int rank, void* to, int64_t to_row, const int64_t* to_dims, const void* source,
                            int64_t source_row, const int64_t* source_dims, int64_t rows) noexcept nogil:
    """Rows of a smaller shape into rows of a larger one; what stays free takes the piece's first element.  Rank 2 to 6."""
    cdef int64_t to_width = batch_row_width(to_dims, rank)
    cdef int64_t source_width = batch_row_width(source_dims, rank)
    cdef int64_t run = source_dims[rank - 1]
    cdef int64_t place[6]
    cdef int64_t i, at, source_at = source_row * source_width
    cdef int d
    if rows == 0 or source_width == 0:
        return
    for i in range(rows * to_width):
        batch_copy(dtype, to, to_row * to_width + i, source, source_at, 1)
    memset(place, 0, sizeof(place))
    for i in range(rows * source_width // run):
        at = to_row
        for d in range(rank - 1):
            at = at * to_dims[d] + place[d] if d else at + place[0]
        batch_copy(dtype, to, at * to_dims[rank - 1], source, source_at + i * run, run)
        d = rank - 2
        place[d] += 1
        while d > 0 and place[d] == source_dims[d]:
            place[d] = 0
            d -= 1
            place[d] += 1


cdef TF_Tensor* batch_gather_whole(BatchGather* gather, const Call* call, int i) noexcept nogil:
    """The split call's whole tensor for plan input `i`, from the request; NULL = no memory."""
    cdef TF_Tensor* whole
    pthread_mutex_lock(&gather.lock)
    if gather.wholes == NULL:
        gather.wholes = <TF_Tensor**>calloc(call.plan.input_count, sizeof(TF_Tensor*))
        gather.inputs = call.plan.input_count if gather.wholes != NULL else 0
    if gather.wholes != NULL and gather.wholes[i] == NULL:
        gather.wholes[i] = tensor_make(batch_span(call, i))
    whole = gather.wholes[i] if gather.wholes != NULL else NULL
    pthread_mutex_unlock(&gather.lock)
    return whole


cdef int batch_place(const BatchTask* task, int i, void* data, int64_t at, const int64_t* dims, int rank) noexcept nogil:
    """Writes the task's rows of plan input `i` from row `at` of the batch's tensor (`dims`); -1: no memory."""
    cdef TensorSpan* span = batch_span(task.call, i)
    cdef int dtype = batch_dtype(task.call, i)
    cdef int64_t width = batch_row_width(dims, rank)
    cdef int64_t own[TENSOR_MAX_RANK]
    cdef TF_Tensor* whole
    cdef bint same = True
    cdef int d
    own[0] = task.rows
    for d in range(1, rank):
        own[d] = batch_dim(task.call, i, d)
        same = same and own[d] == dims[d]
    if same and span != NULL and task.gather == NULL:
        tensor_fill(span, <uint8_t*>data + at * width * tensor_size(dtype))
        return 0
    if span == NULL:
        whole = task.call.plan.inputs[i].fallback
    elif task.gather != NULL:
        whole = batch_gather_whole(task.gather, task.call, i)
    else:
        whole = tensor_make(span)
    if whole == NULL:
        return -1
    if same:
        batch_copy(dtype, data, at * width, tf.TensorData(whole), task.begin * width, task.rows * width)
    else:
        batch_copy_padded(dtype, rank, data, at, dims, tf.TensorData(whole), task.begin, own, task.rows)
    if span != NULL and task.gather == NULL:
        tf.DeleteTensor(whole)
    return 0


cdef TF_Tensor* batch_assemble_input(const BatchTask* tasks, int32_t count, int i, int64_t rows, int64_t padded) noexcept nogil:
    """Plan input `i` of all tasks, `padded` rows; the rows beyond `rows` repeat the first row of the last task.  NULL = no memory."""
    cdef int dtype = batch_dtype(tasks[0].call, i)
    cdef int rank = batch_rank(tasks[0].call, i)
    cdef int64_t dims[TENSOR_MAX_RANK]
    cdef int64_t at = 0, last = 0, width, dim
    cdef TF_Tensor* tensor
    cdef void* data
    cdef int32_t k
    cdef int d
    dims[0] = padded
    for d in range(1, rank):
        dims[d] = 0 if rows else batch_dim(tasks[0].call, i, d)
    for k in range(count):
        for d in range(1, rank if tasks[k].rows else 0):
            dim = batch_dim(tasks[k].call, i, d)
            dims[d] = dim if dim > dims[d] else dims[d]
    tensor = tensor_allocate(dtype, dims, rank)
    if tensor == NULL:
        return NULL
    data = tf.TensorData(tensor)
    width = batch_row_width(dims, rank)
    for k in range(count):
        if tasks[k].rows == 0:
            continue
        if batch_place(&tasks[k], i, data, at, dims, rank) < 0:
            tf.DeleteTensor(tensor)
            return NULL
        last = at
        at += tasks[k].rows
    while at < padded:
        batch_copy(dtype, data, at * width, data, last * width, width)
        at += 1
    return tensor


cdef void batch_feeds_delete(TF_Tensor** feeds, int count) noexcept nogil:
    cdef int i
    for i in range(count):
        if feeds[i] != NULL:
            tf.DeleteTensor(feeds[i])


cdef int batch_assemble(const BatchTask* tasks, int32_t count, int64_t rows, int64_t padded, TF_Tensor** feeds) noexcept nogil:
    """One fresh tensor per plan input; -1 = no memory, then nothing is left in `feeds`."""
    cdef int inputs = tasks[0].call.plan.input_count
    cdef int i
    memset(feeds, 0, inputs * sizeof(TF_Tensor*))
    for i in range(inputs):
        feeds[i] = batch_assemble_input(tasks, count, i, rows, padded)
        if feeds[i] == NULL:
            batch_feeds_delete(feeds, i)
            return -1
    return 0


# -- the way back

cdef int batch_check_outputs(RunResult* result, int64_t rows, Status* status, bint* hopeless) noexcept nogil:
    """Each output has `rows` rows, or the reference's code and text; `hopeless`: no other grouping of the calls can help."""
    cdef int32_t i
    cdef TF_Tensor* tensor
    for i in range(result.count):
        tensor = (&result.tensors[0])[i]
        if tf.NumDims(tensor) == 0:
            hopeless[0] = True
            return status_set(status, FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if tf.Dim(tensor, 0) != rows:
            return status_set(status, FAILED_PRECONDITION, "Batched output tensor's 0th dimension does not equal the sum of the "
                              "0th dimension sizes of the input tensors")
    return OK


cdef TF_Tensor* batch_join_output(const BatchGather* gather, int32_t k, Status* status) noexcept nogil:
    """Output `k` of a split call from the rows of its pieces; NULL: the error is in `status`."""
    cdef TF_Tensor* first = (&gather.parts[0].result.tensors[0])[k]
    cdef TF_Tensor* other
    cdef TF_Tensor* whole
    cdef int rank = tf.NumDims(first)
    cdef int dtype = tf.TensorType(first)
    cdef int64_t dims[TENSOR_MAX_RANK]
    cdef int64_t width, at = 0
    cdef bint same
    cdef int32_t i
    cdef int d
    dims[0] = 0
    for d in range(1, rank):
        dims[d] = tf.Dim(first, d)
    for i in range(gather.count):
        dims[0] += gather.parts[i].rows
        other = (&gather.parts[i].result.tensors[0])[k]
        same = tf.NumDims(other) == rank
        for d in range(1, rank if same else 0):
            same = same and tf.Dim(other, d) == dims[d]
        if not same:
            status_set(status, INTERNAL, "Tensor concat operation failed: the parts of a split request gave different output shapes")
            return NULL
    whole = tensor_allocate(dtype, dims, rank)
    if whole == NULL:
        status_set(status, RESOURCE_EXHAUSTED, "out of memory")
        return NULL
    width = batch_row_width(dims, rank)
    for i in range(gather.count):
        other = (&gather.parts[i].result.tensors[0])[k]
        batch_copy(dtype, tf.TensorData(whole), at * width, tf.TensorData(other), gather.parts[i].begin * width,
                   gather.parts[i].rows * width)
        at += gather.parts[i].rows
    return whole


cdef RunResult* batch_join(const BatchGather* gather, Status* status) noexcept nogil:
    """The whole outputs of a split call, held once; NULL: the error is in `status`."""
    cdef RunResult* result = result_new(gather.parts[0].result.count)
    cdef int32_t k
    if result == NULL:
        status_set(status, RESOURCE_EXHAUSTED, "out of memory")
        return NULL
    for k in range(result.count):
        (&result.tensors[0])[k] = batch_join_output(gather, k, status)
        if (&result.tensors[0])[k] == NULL:
            result_drop(result)
            return NULL
    return result
