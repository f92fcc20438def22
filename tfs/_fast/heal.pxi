# heal.pxi: variables that a SavedModel reads but nothing restored, and the twins that can stand in for them.
#
# Owns: the extra ops it adds to a loaded graph (all named tfs_heal/...).  Must not know: plans, tickets.
# Why: `tf.saved_model.save(keras_model, ...)` under Keras 3 writes every variable twice.  The checkpoint restores X, while the
# signature reads its twin Y, and every request would fail with "Could not find variable".  The graph still tells which X belongs
# to which Y: X's initializer reads Y.  So after the restore we assign X's value to Y, once.

cdef TF_Output op_output(TF_Operation* oper) noexcept nogil:
    cdef TF_Output output
    output.oper = oper
    output.index = 0
    return output


cdef TF_Operation* heal_op(TF_Graph* graph, bytes kind, bytes name, list inputs, int dtype, TF_Status* status) except? NULL:
    """Adds an op whose inputs are output 0 of the ops at the addresses `inputs`; NULL when TensorFlow refuses (see status)."""
    cdef TF_OperationDescription* desc = tf.NewOperation(graph, kind, name)
    for address in inputs:
        tf.AddInput(desc, op_output(<TF_Operation*><size_t>address))
    if dtype:
        tf.SetAttrType(desc, b"dtype", dtype)
    return tf.FinishOperation(desc, status)


cdef int heal_run(TF_Session* session, TF_Output* fetches, TF_Tensor** results, int count, TF_Operation** targets, int target_count,
                  TF_Status* status) noexcept nogil:
    tf.SessionRun(session, NULL, NULL, NULL, 0, fetches, results, count, <const TF_Operation* const*>targets, target_count, NULL, status)
    return tf.GetCode(status)


cdef list heal_uninitialized(TfModel* model, list variables, bytes pattern):
    """Which of the VarHandleOp nodes `variables` (names) hold no value.  [] when TensorFlow cannot tell.

    `pattern`: name of the probing ops, with one %d.
    """
    cdef TF_Status* status = tf.NewStatus()
    cdef int count = len(variables)
    cdef TF_Output* fetches = <TF_Output*>calloc(count + 1, sizeof(TF_Output))
    cdef TF_Tensor** results = <TF_Tensor**>calloc(count + 1, sizeof(TF_Tensor*))
    cdef TF_Operation* handle
    cdef list empty = []
    cdef int i, code = OK
    for i in range(count):
        handle = tf.GraphOperationByName(model.graph, <bytes>variables[i])
        if handle == NULL:
            code = NOT_FOUND
            break
        fetches[i] = op_output(heal_op(model.graph, b"VarIsInitializedOp", pattern % i, [<size_t>handle], 0, status))
        if fetches[i].oper == NULL:
            code = tf.GetCode(status)
            break
    if code == OK and count:
        with nogil:
            code = heal_run(model.session, fetches, results, count, NULL, 0, status)
    for i in range(count):
        if results[i] != NULL:
            if code == OK and not (<uint8_t*>tf.TensorData(results[i]))[0]:
                empty.append(variables[i])
            tf.DeleteTensor(results[i])
    free(fetches)
    free(results)
    tf.DeleteStatus(status)
    return empty


cdef int heal_assign(TfModel* model, list pairs) except -1:
    """For each (X, Y, dtype): Y := X, all in one run.  Raises TensorFlow's error."""
    cdef TF_Status* status = tf.NewStatus()
    cdef Status failure
    cdef int count = len(pairs), i = 0
    cdef TF_Operation** targets = <TF_Operation**>calloc(count + 1, sizeof(TF_Operation*))
    cdef TF_Operation* read = NULL
    memset(&failure, 0, sizeof(Status))
    for source, target, dtype in pairs:
        read = heal_op(model.graph, b"ReadVariableOp", b"tfs_heal/read_%d" % i,
                       [<size_t>tf.GraphOperationByName(model.graph, <bytes>source)], dtype, status)
        if read != NULL:
            targets[i] = heal_op(model.graph, b"AssignVariableOp", b"tfs_heal/assign_%d" % i,
                                 [<size_t>tf.GraphOperationByName(model.graph, <bytes>target), <size_t>read], dtype, status)
        if read == NULL or targets[i] == NULL:
            break
        i += 1
    if i == count:
        with nogil:
            heal_run(model.session, NULL, NULL, 0, targets, count, status)
    status_from_tf(&failure, status)
    free(targets)
    tf.DeleteStatus(status)
    return raise_status(&failure)


cdef list heal_model(TfModel* model, list twins, list variables):
    """Heals what can be healed; returns warnings, one line each.

    `twins`: from graph_twin_assigns; `variables`: VarHandleOp nodes that some signature reads.
    """
    cdef list warnings = []
    cdef list empty = heal_uninitialized(model, sorted(variables), b"tfs_heal/target_%d")
    cdef set missing = set(empty)
    cdef list pairs
    if not empty:
        return warnings
    pairs = [twin for twin in twins if twin[1] in missing and twin[0] not in missing]
    unset = set(heal_uninitialized(model, [twin[0] for twin in pairs], b"tfs_heal/source_%d"))
    pairs = [twin for twin in pairs if twin[0] not in unset]
    if pairs:
        try:
            heal_assign(model, pairs)
        except errors.TfsError as error:
            warnings.append(f"could not heal {len(pairs)} variables that the checkpoint restored under another name: {error}")
        else:
            missing -= {twin[1] for twin in pairs}
            warnings.append(f"healed {len(pairs)} variables that the checkpoint restored under another name "
                            "(saved by tf.saved_model.save of a Keras 3 model; model.export needs no healing)")
    if missing:
        names = ", ".join(sorted(name.decode("utf-8", "replace") for name in missing)[:5])
        warnings.append(f"{len(missing)} variables are read by a signature but neither restored nor assigned ({names}): calls that read "
                        "them will fail; export the model again with model.export or from inside the variables' owner")
    return warnings
