# The TensorFlow C API as this project uses it: opaque types and the signatures of the functions, nothing else.
#
# No TensorFlow header is needed to build.  The functions are members of one table (`TfApi`) that is filled at run time,
# either from the installed libtensorflow_cc (`_fast/tensorflow.pxi`) or by the fake runtime of the tests (`_fast/fake.pxi`).
# Shapes of the structs: tensorflow/c/tf_buffer.h, c_api.h (TF_Output), tf_tstring.h; stable since TensorFlow 2.4.

from libc.stdint cimport int64_t, uint8_t

cdef extern from *:
    """
    typedef struct TF_Tensor TF_Tensor;
    typedef struct TF_Status TF_Status;
    typedef struct TF_Graph TF_Graph;
    typedef struct TF_Session TF_Session;
    typedef struct TF_SessionOptions TF_SessionOptions;
    typedef struct TF_Operation TF_Operation;
    typedef struct TF_OperationDescription TF_OperationDescription;
    typedef struct TF_Library TF_Library;
    typedef struct TF_DeviceList TF_DeviceList;
    typedef struct TF_Buffer {
        const void* data;
        size_t length;
        void (*data_deallocator)(void* data, size_t length);
    } TF_Buffer;
    typedef struct TF_Output { TF_Operation* oper; int index; } TF_Output;
    /* 24 opaque bytes; only the exported TF_String* functions look inside. */
    typedef struct TF_TString { unsigned char opaque[24]; } TF_TString;
    """
    ctypedef struct TF_Tensor:
        pass
    ctypedef struct TF_Status:
        pass
    ctypedef struct TF_Graph:
        pass
    ctypedef struct TF_Session:
        pass
    ctypedef struct TF_SessionOptions:
        pass
    ctypedef struct TF_Operation:
        pass
    ctypedef struct TF_OperationDescription:
        pass
    ctypedef struct TF_Library:
        pass
    ctypedef struct TF_DeviceList:
        pass
    ctypedef struct TF_Buffer:
        const void* data
        size_t length
        void (*data_deallocator)(void* data, size_t length) noexcept nogil
    ctypedef struct TF_Output:
        TF_Operation* oper
        int index
    ctypedef struct TF_TString:
        pass

ctypedef struct TfApi:
    # library
    const char* (*Version)() noexcept nogil
    TF_Library* (*LoadLibrary)(const char* path, TF_Status* status) noexcept nogil
    # status
    TF_Status* (*NewStatus)() noexcept nogil
    void (*DeleteStatus)(TF_Status* status) noexcept nogil
    int (*GetCode)(const TF_Status* status) noexcept nogil
    const char* (*Message)(const TF_Status* status) noexcept nogil
    # buffers
    TF_Buffer* (*NewBuffer)() noexcept nogil
    TF_Buffer* (*NewBufferFromString)(const void* data, size_t size) noexcept nogil
    void (*DeleteBuffer)(TF_Buffer* buffer) noexcept nogil
    # tensors
    TF_Tensor* (*AllocateTensor)(int dtype, const int64_t* dims, int rank, size_t size) noexcept nogil
    void (*DeleteTensor)(TF_Tensor* tensor) noexcept nogil
    int (*TensorType)(const TF_Tensor* tensor) noexcept nogil
    int (*NumDims)(const TF_Tensor* tensor) noexcept nogil
    int64_t (*Dim)(const TF_Tensor* tensor, int index) noexcept nogil
    size_t (*TensorByteSize)(const TF_Tensor* tensor) noexcept nogil
    void* (*TensorData)(const TF_Tensor* tensor) noexcept nogil
    # strings
    void (*StringInit)(TF_TString* string) noexcept nogil
    void (*StringCopy)(TF_TString* string, const char* data, size_t size) noexcept nogil
    const char* (*StringGetDataPointer)(const TF_TString* string) noexcept nogil
    size_t (*StringGetSize)(const TF_TString* string) noexcept nogil
    # graphs and sessions
    TF_Graph* (*NewGraph)() noexcept nogil
    void (*DeleteGraph)(TF_Graph* graph) noexcept nogil
    TF_Operation* (*GraphOperationByName)(TF_Graph* graph, const char* name) noexcept nogil
    int (*OperationNumOutputs)(TF_Operation* oper) noexcept nogil
    TF_OperationDescription* (*NewOperation)(TF_Graph* graph, const char* op_type, const char* name) noexcept nogil
    void (*AddInput)(TF_OperationDescription* desc, TF_Output value) noexcept nogil
    void (*SetAttrType)(TF_OperationDescription* desc, const char* name, int dtype) noexcept nogil
    TF_Operation* (*FinishOperation)(TF_OperationDescription* desc, TF_Status* status) noexcept nogil
    TF_SessionOptions* (*NewSessionOptions)() noexcept nogil
    void (*SetConfig)(TF_SessionOptions* options, const void* proto, size_t size, TF_Status* status) noexcept nogil
    void (*DeleteSessionOptions)(TF_SessionOptions* options) noexcept nogil
    TF_Session* (*LoadSessionFromSavedModel)(
        const TF_SessionOptions* options, const TF_Buffer* run_options, const char* export_dir, const char* const* tags, int tags_len,
        TF_Graph* graph, TF_Buffer* meta_graph_def, TF_Status* status) noexcept nogil
    void (*SessionRun)(
        TF_Session* session, const TF_Buffer* run_options, const TF_Output* inputs, TF_Tensor* const* input_values, int ninputs,
        const TF_Output* outputs, TF_Tensor** output_values, int noutputs, const TF_Operation* const* targets, int ntargets,
        TF_Buffer* run_metadata, TF_Status* status) noexcept nogil
    void (*CloseSession)(TF_Session* session, TF_Status* status) noexcept nogil
    void (*DeleteSession)(TF_Session* session, TF_Status* status) noexcept nogil
    TF_DeviceList* (*SessionListDevices)(TF_Session* session, TF_Status* status) noexcept nogil
    int (*DeviceListCount)(const TF_DeviceList* devices) noexcept nogil
    const char* (*DeviceListType)(const TF_DeviceList* devices, int index, TF_Status* status) noexcept nogil
    void (*DeleteDeviceList)(TF_DeviceList* devices) noexcept nogil
