# dtypes.pxi: the field numbers of TensorProto and the table of DataTypes.
#
# Owns: what a dtype is called, how wide it is, which field of TensorProto carries it and how that looks on the wire.
# Must not know: where values come from or go to.

cdef enum:                         # fields of tensorflow.TensorProto, TensorShapeProto and its Dim
    TENSOR_FIELD_DTYPE = 1
    TENSOR_FIELD_SHAPE = 2
    TENSOR_FIELD_CONTENT = 4
    TENSOR_FIELD_FLOAT = 5
    TENSOR_FIELD_DOUBLE = 6
    TENSOR_FIELD_INT = 7
    TENSOR_FIELD_STRING = 8
    TENSOR_FIELD_SCOMPLEX = 9
    TENSOR_FIELD_INT64 = 10
    TENSOR_FIELD_BOOL = 11
    TENSOR_FIELD_DCOMPLEX = 12
    TENSOR_FIELD_HALF = 13
    TENSOR_FIELD_UINT32 = 16
    TENSOR_FIELD_UINT64 = 17
    TENSOR_FIELD_FLOAT8 = 18
    TENSOR_FIELDS = 19
    SHAPE_FIELD_DIM = 2
    DIM_FIELD_SIZE = 1
    DIM_FIELD_NAME = 2

cdef enum:
    TENSOR_MAX_RANK = 254          # TensorShape::MaxDimensions
    TENSOR_DTYPES = 34
    DTYPE_STRING = 7

cdef extern from * nogil:
    """
    /* How the typed field of a dtype looks on the wire. */
    enum { KIND_NONE, KIND_FIXED, KIND_SIGNED, KIND_UNSIGNED, KIND_BOOL, KIND_BYTES, KIND_STRING };
    struct DtypeRow {
        const char* name;          /* as TensorFlow prints it */
        const char* enum_name;
        unsigned char size;        /* bytes per element in memory; 0 = cannot be sent */
        unsigned char scalars;     /* scalars per element */
        unsigned char field;       /* typed field of TensorProto */
        unsigned char kind;
    };
    /* Indexed by DataType.  The 4-bit and 2-bit integers take a whole byte, as in TensorFlow's memory. */
    static const struct DtypeRow dtype_table[34] = {
        {"INVALID", "DT_INVALID", 0, 1, 0, KIND_NONE},
        {"float", "DT_FLOAT", 4, 1, 5, KIND_FIXED},
        {"double", "DT_DOUBLE", 8, 1, 6, KIND_FIXED},
        {"int32", "DT_INT32", 4, 1, 7, KIND_SIGNED},
        {"uint8", "DT_UINT8", 1, 1, 7, KIND_UNSIGNED},
        {"int16", "DT_INT16", 2, 1, 7, KIND_SIGNED},
        {"int8", "DT_INT8", 1, 1, 7, KIND_SIGNED},
        {"string", "DT_STRING", 24, 1, 8, KIND_STRING},
        {"complex64", "DT_COMPLEX64", 8, 2, 9, KIND_FIXED},
        {"int64", "DT_INT64", 8, 1, 10, KIND_SIGNED},
        {"bool", "DT_BOOL", 1, 1, 11, KIND_BOOL},
        {"qint8", "DT_QINT8", 1, 1, 7, KIND_SIGNED},
        {"quint8", "DT_QUINT8", 1, 1, 7, KIND_UNSIGNED},
        {"qint32", "DT_QINT32", 4, 1, 7, KIND_SIGNED},
        {"bfloat16", "DT_BFLOAT16", 2, 1, 13, KIND_UNSIGNED},
        {"qint16", "DT_QINT16", 2, 1, 7, KIND_SIGNED},
        {"quint16", "DT_QUINT16", 2, 1, 7, KIND_UNSIGNED},
        {"uint16", "DT_UINT16", 2, 1, 7, KIND_UNSIGNED},
        {"complex128", "DT_COMPLEX128", 16, 2, 12, KIND_FIXED},
        {"half", "DT_HALF", 2, 1, 13, KIND_UNSIGNED},
        {"resource", "DT_RESOURCE", 0, 1, 14, KIND_NONE},
        {"variant", "DT_VARIANT", 0, 1, 15, KIND_NONE},
        {"uint32", "DT_UINT32", 4, 1, 16, KIND_UNSIGNED},
        {"uint64", "DT_UINT64", 8, 1, 17, KIND_UNSIGNED},
        {"float8_e5m2", "DT_FLOAT8_E5M2", 1, 1, 18, KIND_BYTES},
        {"float8_e4m3fn", "DT_FLOAT8_E4M3FN", 1, 1, 18, KIND_BYTES},
        {"float8_e4m3fnuz", "DT_FLOAT8_E4M3FNUZ", 1, 1, 18, KIND_BYTES},
        {"float8_e4m3b11fnuz", "DT_FLOAT8_E4M3B11FNUZ", 1, 1, 18, KIND_BYTES},
        {"float8_e5m2fnuz", "DT_FLOAT8_E5M2FNUZ", 1, 1, 18, KIND_BYTES},
        {"int4", "DT_INT4", 1, 1, 7, KIND_SIGNED},
        {"uint4", "DT_UINT4", 1, 1, 7, KIND_UNSIGNED},
        {"int2", "DT_INT2", 1, 1, 7, KIND_SIGNED},
        {"uint2", "DT_UINT2", 1, 1, 7, KIND_UNSIGNED},
        {"float4_e2m1fn", "DT_FLOAT4_E2M1FN", 1, 1, 18, KIND_BYTES},
    };
    /* Wire type of one scalar of each typed field when it is not packed; 255: not a typed field. */
    static const unsigned char dtype_field_wire[19] = {
        255, 255, 255, 255, 255, 5, 1, 0, 2, 5, 0, 0, 1, 0, 255, 255, 0, 0, 2,
    };

    static inline int dtype_mul_overflows(int64_t a, int64_t b, int64_t* product) { return __builtin_mul_overflow(a, b, product); }

    /* How many varints a packed chunk holds, or -1: one of them has more than ten bytes or is cut off. */
    static int64_t dtype_count_varints(const uint8_t* at, const uint8_t* end) {
        int64_t count = 0;
        int open = 0;                                  /* bytes of the unfinished varint so far */
        for (; end - at >= 8; at += 8) {
            uint64_t word;
            memcpy(&word, at, 8);
            uint64_t last = ~word & 0x8080808080808080ull;
            if (last == 0) {
                if ((open += 8) >= 10) return -1;
                continue;
            }
            if (open + (__builtin_ctzll(last) >> 3) >= 10) return -1;
            count += __builtin_popcountll(last);
            open = __builtin_clzll(last) >> 3;
        }
        for (; at < end; at++) {
            if (*at < 0x80) { count++; open = 0; }
            else if (++open >= 10) return -1;
        }
        return open ? -1 : count;
    }
    """
    enum:
        KIND_NONE
        KIND_FIXED
        KIND_SIGNED
        KIND_UNSIGNED
        KIND_BOOL
        KIND_BYTES
        KIND_STRING
    ctypedef struct DtypeRow "struct DtypeRow":
        const char* name
        const char* enum_name
        uint8_t size
        uint8_t scalars
        uint8_t field
        uint8_t kind
    const DtypeRow* dtype_table
    const uint8_t* dtype_field_wire
    bint dtype_mul_overflows(int64_t a, int64_t b, int64_t* product) noexcept
    int64_t dtype_count_varints(const uint8_t* at, const uint8_t* end) noexcept


cdef inline const DtypeRow* dtype_row(int dtype) noexcept nogil:
    """The row of a DataType number; unknown numbers and the _REF variants get DT_INVALID's."""
    return &dtype_table[dtype if 0 <= dtype < TENSOR_DTYPES else 0]


cdef inline size_t tensor_size(int dtype) noexcept nogil:
    """Bytes per element in memory (24 for a string's handle); 0 = a dtype that cannot be sent."""
    return dtype_row(dtype).size
