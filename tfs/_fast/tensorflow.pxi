# tensorflow.pxi: finds TensorFlow's C functions at run time and fills the table `tf` with them.
#
# Owns: the dlopen handle (for the life of the process: TensorFlow cannot be unloaded) and the table.  Must not know: models.
# Strategy: RTLD_NOW | RTLD_LOCAL, never RTLD_GLOBAL: libtensorflow exports half a million symbols, BoringSSL, zlib and sqlite
# among them, and with RTLD_GLOBAL `import hashlib` would crash.  The members of TfApi (_tf.pxd) stand in the order of TF_SYMBOLS.

cdef extern from "<dlfcn.h>" nogil:
    void* dlopen(const char* path, int flags) noexcept
    void* dlsym(void* handle, const char* name) noexcept
    const char* dlerror() noexcept
    int RTLD_NOW
    int RTLD_LOCAL

cdef tuple TF_SYMBOLS = (
    b"TF_Version", b"TF_LoadLibrary",
    b"TF_NewStatus", b"TF_DeleteStatus", b"TF_GetCode", b"TF_Message",
    b"TF_NewBuffer", b"TF_NewBufferFromString", b"TF_DeleteBuffer",
    b"TF_AllocateTensor", b"TF_DeleteTensor", b"TF_TensorType", b"TF_NumDims", b"TF_Dim", b"TF_TensorByteSize", b"TF_TensorData",
    b"TF_StringInit", b"TF_StringCopy", b"TF_StringGetDataPointer", b"TF_StringGetSize",
    b"TF_NewGraph", b"TF_DeleteGraph", b"TF_GraphOperationByName", b"TF_OperationNumOutputs",
    b"TF_NewOperation", b"TF_AddInput", b"TF_SetAttrType", b"TF_FinishOperation",
    b"TF_NewSessionOptions", b"TF_SetConfig", b"TF_DeleteSessionOptions",
    b"TF_LoadSessionFromSavedModel", b"TF_SessionRun", b"TF_CloseSession", b"TF_DeleteSession",
    b"TF_SessionListDevices", b"TF_DeviceListCount", b"TF_DeviceListType", b"TF_DeleteDeviceList",
)

cdef TfApi tf_loaded               # the table as load_runtime has filled it; all NULL before

TF_LIBRARY = "libtensorflow_cc.so.2"


def load_runtime(str directory):
    """Loads libtensorflow_cc from `directory` into this process and returns TensorFlow's version; later calls only return it.

    (They also put the functions back in place that a test's fake_runtime has replaced.)

    Main thread.  Raises FailedPrecondition when the library or a function of it is missing.
    """
    cdef bytes path = f"{directory}/{TF_LIBRARY}".encode()
    cdef const char* c_path = path
    cdef void* handle
    cdef void** slots = <void**>&tf
    cdef Py_ssize_t i
    if tf_loaded.Version != NULL:
        memcpy(&tf, &tf_loaded, sizeof(TfApi))
        return tf.Version().decode()
    if len(TF_SYMBOLS) * sizeof(void*) != sizeof(TfApi):
        raise errors.Internal("TF_SYMBOLS and TfApi differ in length")
    with nogil:
        handle = dlopen(c_path, RTLD_NOW | RTLD_LOCAL)
    if handle == NULL:
        raise errors.FailedPrecondition(f"cannot load TensorFlow: {dlerror().decode('utf-8', 'replace')}")
    for i, name in enumerate(TF_SYMBOLS):
        slots[i] = dlsym(handle, name)
        if slots[i] == NULL:
            memset(&tf, 0, sizeof(TfApi))
            raise errors.FailedPrecondition(f"{path.decode()} has no function {name.decode()}: TensorFlow 2.16 or newer is needed")
    memcpy(&tf_loaded, &tf, sizeof(TfApi))
    return tf.Version().decode()


def load_op_library(str path):
    """`TF_LoadLibrary`: registers the ops and kernels of a shared library.  Any thread.  Raises TfsError with TensorFlow's text."""
    cdef bytes raw = path.encode()
    cdef const char* c_path = raw
    cdef TF_Status* status = tf.NewStatus()
    cdef Status failure
    memset(&failure, 0, sizeof(Status))
    with nogil:
        tf.LoadLibrary(c_path, status)              # the TF_Library handle lives as long as the process
        status_from_tf(&failure, status)
        tf.DeleteStatus(status)
    raise_status(&failure)


cdef int status_from_tf(Status* status, TF_Status* from_tf) noexcept nogil:
    """Copies TensorFlow's code and text; returns the code."""
    cdef int code = tf.GetCode(from_tf)
    if code != OK:
        status_set(status, code, tf.Message(from_tf))
    return code


cdef int raise_status(Status* status) except -1:
    """Raises the error of a status that is not OK, and frees its text.  Needs the GIL."""
    cdef object error
    if status.code == OK:
        return 0
    error = status_error(status)
    status_clear(status)
    raise error
