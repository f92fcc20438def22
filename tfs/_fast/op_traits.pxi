# op_traits.pxi: what is known of TensorFlow's op types, as data.
#
# Owns: the lists and the function that judges a set of op names by them.  Must not know: graphs or sessions.
# Strategy: "may block" is a deny-list with a few prefixes (an unlisted op is assumed to end in its own time); "stateless" is an
# allow-list (an unlisted op may keep state, so a failed batch that holds it is not run twice).

# Ops that can wait for something else than the CPU, loop for a count that a request chooses, compile, or leave the process.
cdef frozenset BLOCKING_OPS = frozenset(b"""
    While StatelessWhile For _While Enter RefEnter Exit NextIteration LoopCond If Case
    XlaLaunch XlaLaunchV2 _XlaCompile _XlaRun _XlaMustCompile BatchFunction Batch Unbatch
    PyFunc PyFuncStateless EagerPyFunc RemoteCall PartitionedCallRemote Recv _Recv _HostRecv Send _Send
    Barrier BarrierTakeMany BarrierInsertMany Stage Unstage StagePeek MapStage MapUnstage MapPeek MapUnstageNoKey
    OrderedMapStage OrderedMapUnstage OrderedMapPeek RecvTPUEmbeddingActivations MutexLock ConsumeMutexLock
    ReadFile WholeFileReaderV2 ReaderReadV2 ReaderReadUpToV2
    CollectiveReduce CollectiveReduceV2 CollectiveGather CollectiveGatherV2 CollectiveBcastSend CollectiveBcastRecv
    NcclAllReduce NcclReduce NcclBroadcast
""".split())
cdef tuple BLOCKING_PREFIXES = (b"Queue", b"RandomShuffleQueue", b"FIFOQueue", b"PaddingFIFOQueue", b"PriorityQueue",
                                b"Iterator", b"OneShotIterator", b"MultiDeviceIterator", b"Collective", b"TPU")
cdef tuple BLOCKING_SUFFIXES = (b"Dataset", b"DatasetV2", b"DatasetV3", b"Iterator", b"IteratorV2")

# Pure functions of their inputs, and reads of variables and tables: running one twice is not observable.  Calls and control flow are
# listed too: what they run is reached, and judged, by itself.
cdef frozenset STATELESS_OPS = frozenset(b"""
    Abs Acos Acosh Add AddN AddV2 All Any ApproximateEqual ArgMax ArgMin AsString Asin Asinh Assert Atan Atan2 Atanh AvgPool AvgPool3D
    BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchNormWithGlobalNormalization BatchToSpace BatchToSpaceND BiasAdd BiasAddV1
    BitwiseAnd BitwiseOr BitwiseXor Bitcast BroadcastArgs BroadcastTo Bucketize Cast Ceil CheckNumerics CheckNumericsV2 ClipByValue
    Complex ComplexAbs Concat ConcatV2 ConcatOffset Conj Const Conv1D Conv2D Conv3D Cos Cosh CropAndResize Cross Cumprod Cumsum
    DecodeBase64 DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodeAndCropJpeg DecodePng DecodeRaw DecodePaddedRaw DecodeCSV
    DecodeJSONExample DepthToSpace DepthwiseConv2dNative Dequantize Diag DiagPart Div DivNoNan DynamicPartition DynamicStitch Einsum
    Elu Empty EncodeBase64 EncodeJpeg EncodePng EnsureShape Equal Erf Erfc Erfinv Exp ExpandDims Expm1 ExtractImagePatches
    FFT FFT2D IFFT IFFT2D RFFT IRFFT Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
    Gather GatherNd GatherV2 Greater GreaterEqual HashTable HashTableV2 Identity IdentityN Imag InTopK InTopKV2 Inv Invert
    InvertPermutation IsFinite IsInf IsNan IsVariableInitialized L2Loss LRN LeakyRelu LeftShift Less LessEqual Lgamma LinSpace ListDiff
    Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr LookupTableFind LookupTableFindV2 LookupTableSize LookupTableSizeV2 LowerBound
    MatMul MatrixBandPart MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixInverse
    MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 Max MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax Maximum Mean Merge Min Minimum
    MirrorPad Mod Mul MulNoNan Multinomial NcclAllReduceStateless Ndtri Neg NextAfter NoOp NonMaxSuppression NonMaxSuppressionV2
    NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 CombinedNonMaxSuppression NotEqual OneHot OnesLike Pack Pad PadV2
    ParseExample ParseExampleV2 ParseSingleExample ParseTensor PartitionedCall Placeholder PlaceholderV2 PlaceholderWithDefault
    Polygamma PopulationCount Pow PreventGradient Prod QuantizeAndDequantize QuantizeAndDequantizeV2 QuantizeAndDequantizeV3
    QuantizeAndDequantizeV4 QuantizeV2 QuantizedConv2D QuantizedMatMul RaggedGather RaggedRange RaggedTensorFromVariant
    RaggedTensorToSparse RaggedTensorToTensor RaggedTensorToVariant Range Rank ReadVariableOp Real RealDiv Reciprocal
    ReduceJoin RegexFullMatch RegexReplace Relu Relu6 Reshape ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor
    ResourceGather ResourceGatherNd Reverse ReverseSequence ReverseV2 RightShift Rint Roll Round Rsqrt ScatterNd SearchSorted
    SegmentMax SegmentMean SegmentMin SegmentProd SegmentSum Select SelectV2 SelfAdjointEigV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh
    Size Slice Snapshot Softmax Softplus Softsign SpaceToBatch SpaceToBatchND SpaceToDepth SparseConcat SparseCross SparseCrossV2
    SparseDenseCwiseAdd SparseDenseCwiseMul SparseFillEmptyRows SparseReorder SparseReshape SparseSegmentMean
    SparseSegmentMeanWithNumSegments SparseSegmentSqrtN SparseSegmentSqrtNWithNumSegments SparseSegmentSum
    SparseSegmentSumWithNumSegments SparseSlice SparseSoftmax SparseTensorDenseMatMul SparseToDense SparseToSparseSetOperation Split
    SplitV Sqrt Square SquaredDifference Squeeze StatelessIf StaticRegexFullMatch StaticRegexReplace StatelessRandomUniform
    StatelessRandomNormal StatelessRandomGetKeyCounter StopGradient StridedSlice StringFormat StringJoin StringLength StringLower
    StringNGrams StringSplit StringSplitV2 StringStrip StringToHashBucket StringToHashBucketFast StringToHashBucketStrong
    StringToNumber StringUpper Sub Substr Sum Svd Switch Tan Tanh TensorListConcatV2 TensorListElementShape TensorListFromTensor
    TensorListGather TensorListGetItem TensorListLength TensorListReserve TensorListSetItem TensorListStack TensorScatterAdd
    TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate Tile TopK TopKV2 Transpose TruncateDiv TruncateMod
    UnicodeDecode UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode Unique UniqueV2 UniqueWithCounts
    UniqueWithCountsV2 Unpack UnravelIndex UnsortedSegmentJoin UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd
    UnsortedSegmentSum UpperBound VarHandleOp VarIsInitializedOp VariableV2 Variable Where Xdivy Xlog1py Xlogy ZerosLike Zeta
    _XlaMustCompile _Arg _Retval _FusedConv2D _FusedMatMul StatefulPartitionedCall
    If Case StatelessCase While StatelessWhile Enter Exit LoopCond NextIteration
""".split())

# Ops whose kernels (oneDNN's, TensorFlow 2.21) end the process by a CHECK when a tensor has not the rank that they expect.
cdef frozenset RANK_CHECKING_OPS = frozenset(b"Conv2D DepthwiseConv2dNative Conv3D MaxPool3D _FusedConv2D".split())

cdef frozenset PYTHON_OPS = frozenset((b"PyFunc", b"PyFuncStateless", b"EagerPyFunc"))


cdef uint32_t op_traits(set ops, set functions):
    """GraphTrait bits of a set of op types; op types that are functions' names (calls) are judged by the function's own ops."""
    cdef uint32_t traits = GRAPH_STATELESS
    for op in ops:
        if op in functions:
            continue
        if op in BLOCKING_OPS or op.startswith(BLOCKING_PREFIXES) or op.endswith(BLOCKING_SUFFIXES):
            traits |= GRAPH_MAY_BLOCK
        if op in RANK_CHECKING_OPS:
            traits |= GRAPH_ABORTS_ON_RANK
        if op not in STATELESS_OPS:
            traits &= ~<uint32_t>GRAPH_STATELESS
    return traits
