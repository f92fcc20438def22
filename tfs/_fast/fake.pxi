# fake.pxi: a stand-in for TensorFlow, in this process, so that codec and engine run without it.
#
# Owns: the functions that fake_runtime() puts into `tf`.  Must not know: calls or the wire.
# Strategy: the smallest thing that honours the C API's contract: a tensor owns its memory, deleting a DT_STRING tensor destructs its
# elements, a string is 24 bytes that own theirs.  Counts what it hands out, so that a test can say that nothing was lost.

cdef struct FakeTensor:
    int dtype
    int rank
    int64_t* dims
    size_t size
    void* data

cdef struct FakeString:            # in the 24 bytes of a TF_TString
    char* ptr
    size_t size
    size_t unused

cdef struct FakeStatus:
    int code
    Text text

cdef int64_t fake_tensors_made = 0         # atomic; never reset
cdef int64_t fake_tensors_alive = 0        # atomic
cdef int64_t fake_bytes_made = 0           # atomic; sum of the sizes asked for


# -- strings

cdef void fake_string_init(TF_TString* string) noexcept nogil:
    memset(string, 0, sizeof(FakeString))


cdef void fake_string_copy(TF_TString* string, const char* data, size_t size) noexcept nogil:
    cdef FakeString* fake = <FakeString*>string
    free(fake.ptr)
    fake.ptr = <char*>malloc(size + 1)
    fake.size = size
    memcpy(fake.ptr, data, size)
    fake.ptr[size] = 0


cdef const char* fake_string_data(const TF_TString* string) noexcept nogil:
    cdef const FakeString* fake = <const FakeString*>string
    if fake.ptr == NULL:
        return ""
    return fake.ptr


cdef size_t fake_string_size(const TF_TString* string) noexcept nogil:
    return (<const FakeString*>string).size


# -- tensors

cdef TF_Tensor* fake_allocate(int dtype, const int64_t* dims, int rank, size_t size) noexcept nogil:
    cdef FakeTensor* fake = <FakeTensor*>malloc(sizeof(FakeTensor))
    if fake == NULL:
        return NULL
    fake.dims = <int64_t*>malloc(rank * sizeof(int64_t) + 8)
    fake.data = malloc(size + 8)
    if fake.dims == NULL or fake.data == NULL:
        free(fake.dims)
        free(fake.data)
        free(fake)
        return NULL
    if rank > 0:
        memcpy(fake.dims, dims, rank * sizeof(int64_t))
    fake.dtype = dtype
    fake.rank = rank
    fake.size = size
    atomic_add64(&fake_tensors_made, 1)
    atomic_add64(&fake_tensors_alive, 1)
    atomic_add64(&fake_bytes_made, <int64_t>size)
    return <TF_Tensor*>fake


cdef void fake_delete(TF_Tensor* tensor) noexcept nogil:
    cdef FakeTensor* fake = <FakeTensor*>tensor
    cdef size_t i
    if fake == NULL:
        return
    if fake.dtype == DTYPE_STRING:
        for i in range(fake.size // sizeof(FakeString)):
            free((<FakeString*>fake.data)[i].ptr)
    free(fake.dims)
    free(fake.data)
    free(fake)
    atomic_add64(&fake_tensors_alive, -1)


cdef int fake_type(const TF_Tensor* tensor) noexcept nogil:
    return (<const FakeTensor*>tensor).dtype


cdef int fake_rank(const TF_Tensor* tensor) noexcept nogil:
    return (<const FakeTensor*>tensor).rank


cdef int64_t fake_dim(const TF_Tensor* tensor, int index) noexcept nogil:
    return (<const FakeTensor*>tensor).dims[index]


cdef size_t fake_byte_size(const TF_Tensor* tensor) noexcept nogil:
    return (<const FakeTensor*>tensor).size


cdef void* fake_data(const TF_Tensor* tensor) noexcept nogil:
    return (<const FakeTensor*>tensor).data


# -- status

cdef TF_Status* fake_new_status() noexcept nogil:
    return <TF_Status*>calloc(1, sizeof(FakeStatus))


cdef void fake_delete_status(TF_Status* status) noexcept nogil:
    if status != NULL:
        text_free(&(<FakeStatus*>status).text)
        free(status)


cdef int fake_code(const TF_Status* status) noexcept nogil:
    return (<const FakeStatus*>status).code


cdef const char* fake_message(const TF_Status* status) noexcept nogil:
    cdef const FakeStatus* fake = <const FakeStatus*>status
    if fake.text.ptr == NULL:
        return ""
    return fake.text.ptr


cdef void fake_set_status(TF_Status* status, int code, const char* message) noexcept nogil:
    """What a fake session uses to fail."""
    cdef FakeStatus* fake = <FakeStatus*>status
    text_free(&fake.text)
    fake.code = code
    text_str(&fake.text, message)


def fake_runtime() -> None:
    tf.NewStatus = fake_new_status
    tf.DeleteStatus = fake_delete_status
    tf.GetCode = fake_code
    tf.Message = fake_message
    tf.AllocateTensor = fake_allocate
    tf.DeleteTensor = fake_delete
    tf.TensorType = fake_type
    tf.NumDims = fake_rank
    tf.Dim = fake_dim
    tf.TensorByteSize = fake_byte_size
    tf.TensorData = fake_data
    tf.StringInit = fake_string_init
    tf.StringCopy = fake_string_copy
    tf.StringGetDataPointer = fake_string_data
    tf.StringGetSize = fake_string_size


def fake_counts() -> dict[str, int]:
    """Tests: tensors handed out, tensors not yet deleted, bytes asked for in all."""
    return {"made": atomic_load64(&fake_tensors_made), "alive": atomic_load64(&fake_tensors_alive), "bytes": atomic_load64(&fake_bytes_made)}
