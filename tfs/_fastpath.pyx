# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled core: from request bytes to reply bytes without the GIL.

This file is the table of contents.  The parts below are one module, in the order of their inclusion, which is the order to read them in:

  nouns       platform  types  status  wire  crc32c
  counting    counters  stages
  codec       dtypes  tensor  request  response
  TensorFlow  tensorflow  crash  session  heal  graph  op_traits  rank
  model       plan  signature  serving_map
  engine      engine  timer  runner  lifetime
  batching    batch_counters  batch_queue  batch_admit  batch_decide  batch_assemble  batch_run  batch_pool  batch_face
  version     servable (the Python owner of a loaded version, with its session, plans and batcher)
  REST        json_number  json_element  json_scan  json_digits  json_dump  json_fill  json_decode  json_explain  json_encode
              json_submit  json_face
  consumers   mailbox  pyengine
  client      client_codec (the client's side of Predict: no engine, no TensorFlow)
  tests       fake  fake_session  probe  engine_probe  batch_probe  batch_bench  json_probe
              (entrances of tests and benches to single stages)
  transport   pieces  transport  out  body  http2  grpc  rest  http1_head  http1  inflate  streams  io  tick  listen  native  cold, and
              for tests transport_echo  native_probe
              (_native.pxi, written by setup.py, includes them where libnghttp2 was found, else no_native)

House rules
  1. Between the transport's bytes and TensorFlow nothing takes the GIL, builds a Python object or logs.
  2. `noexcept nogil` is written on every C function of the data path; what may fail returns a status code (0 = OK) and leaves
     its text in the ticket's Status.  A pointer result of NULL means the same.
  3. No allocation is sized by a number from the wire before the bytes it counts have been seen.
  4. One owner per C thing; the owner is written beside the field in types.pxi.  Live counts (debug build) end at zero.
  5. Functions are prefixed with the part they live in; struct fields are written only by the stage named in types.pxi.
"""

from libc.math cimport signbit
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, INT64_MAX
from libc.stdio cimport snprintf
from libc.stdlib cimport malloc, calloc, realloc, free, qsort
from libc.string cimport memcpy, memcmp, memset, memchr, memmove, strlen

from tfs._tf cimport (
    TF_Buffer, TF_DeviceList, TF_Graph, TF_Operation, TF_OperationDescription, TF_Output, TF_Session, TF_SessionOptions,
    TF_Status, TF_TString, TF_Tensor, TfApi,
)

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

import os
import threading

from tfs import errors

include "_fast/platform.pxi"
include "_fast/types.pxi"
include "_fast/status.pxi"
include "_fast/wire.pxi"
include "_fast/crc32c.pxi"
include "_fast/counters.pxi"
include "_fast/stages.pxi"
include "_fast/dtypes.pxi"
include "_fast/tensor.pxi"
include "_fast/request.pxi"
include "_fast/response.pxi"
include "_fast/examples.pxi"
include "_fast/tensorflow.pxi"
include "_fast/crash.pxi"
include "_fast/session.pxi"
include "_fast/heal.pxi"
include "_fast/graph.pxi"
include "_fast/op_traits.pxi"
include "_fast/rank.pxi"
include "_fast/plan.pxi"
include "_fast/signature.pxi"
include "_fast/serving_map.pxi"
include "_fast/engine.pxi"
include "_fast/timer.pxi"
include "_fast/runner.pxi"
include "_fast/lifetime.pxi"
include "_fast/batch_counters.pxi"
include "_fast/batch_queue.pxi"
include "_fast/batch_admit.pxi"
include "_fast/batch_decide.pxi"
include "_fast/batch_assemble.pxi"
include "_fast/batch_run.pxi"
include "_fast/batch_pool.pxi"
include "_fast/batch_face.pxi"
include "_fast/servable.pxi"
include "_fast/json_number.pxi"
include "_fast/json_element.pxi"
include "_fast/json_scan.pxi"
include "_fast/json_digits.pxi"
include "_fast/json_dump.pxi"
include "_fast/json_fill.pxi"
include "_fast/json_decode.pxi"
include "_fast/json_explain.pxi"
include "_fast/json_encode.pxi"
include "_fast/json_submit.pxi"
include "_fast/json_face.pxi"
include "_fast/mailbox.pxi"
include "_fast/pyengine.pxi"
include "_fast/client_codec.pxi"
include "_fast/fake.pxi"
include "_fast/fake_session.pxi"
include "_fast/probe.pxi"
include "_fast/engine_probe.pxi"
include "_fast/batch_probe.pxi"
include "_fast/batch_bench.pxi"
include "_fast/json_probe.pxi"
include "_fast/_native.pxi"
