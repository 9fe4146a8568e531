/* An awaitable that has its result already: awaiting it asks no loop and makes no coroutine.

   In C because of how it ends: an exception that Cython raises carries a traceback, which costs
   more than all the rest. */
#ifndef PYDLM_READY_H
#define PYDLM_READY_H

#include <Python.h>

typedef struct {
    PyObject_HEAD
    PyObject *value; /* NULL: None */
    PyObject *stop;  /* StopIteration(value), made once */
} dlm_ready_t;

static int dlm_ready_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(((dlm_ready_t *)self)->value);
    Py_VISIT(((dlm_ready_t *)self)->stop);
    return 0;
}

static int dlm_ready_clear(PyObject *self) {
    Py_CLEAR(((dlm_ready_t *)self)->value);
    Py_CLEAR(((dlm_ready_t *)self)->stop);
    return 0;
}

static void dlm_ready_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    dlm_ready_clear(self);
    PyObject_GC_Del(self);
}

static PyObject *dlm_ready_self(PyObject *self) {
    Py_INCREF(self);
    return self;
}

/* How a Python that does not use am_send gets the value: 3.12 and later. None needs no exception
   at all. The same one may be raised again, for whoever awaits takes it off at once; a traceback
   is on it only if somebody has called next(). */
static PyObject *dlm_ready_next(PyObject *self) {
    dlm_ready_t *ready = (dlm_ready_t *)self;
    if (ready->value == NULL)
        return NULL;
#if PY_VERSION_HEX >= 0x030C0000
    if (ready->stop != NULL) {
        PyException_SetTraceback(ready->stop, Py_None);
        PyErr_SetRaisedException(Py_NewRef(ready->stop));
        return NULL;
    }
#endif
    PyErr_SetObject(PyExc_StopIteration, ready->value);
    return NULL;
}

static PySendResult dlm_ready_send(PyObject *self, PyObject *sent, PyObject **result) {
    PyObject *value = ((dlm_ready_t *)self)->value;
    *result = value != NULL ? value : Py_None;
    Py_INCREF(*result);
    return PYGEN_RETURN;
}

static PyAsyncMethods dlm_ready_async = {
    .am_await = dlm_ready_self,
    .am_send = dlm_ready_send,
};

static PyTypeObject dlm_ready_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "pydlm._core.Ready",
    .tp_doc = "An awaitable that has its result already.",
    .tp_basicsize = sizeof(dlm_ready_t),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_dealloc = dlm_ready_dealloc,
    .tp_traverse = dlm_ready_traverse,
    .tp_clear = dlm_ready_clear,
    .tp_iter = dlm_ready_self,
    .tp_iternext = dlm_ready_next,
    .tp_as_async = &dlm_ready_async,
};

/* Returns a new one, or NULL with an exception. The value is neither a tuple nor an exception. */
static PyObject *dlm_ready(PyObject *value) {
    dlm_ready_t *ready;
    if (PyType_Ready(&dlm_ready_type) < 0)
        return NULL;
    ready = PyObject_GC_New(dlm_ready_t, &dlm_ready_type);
    if (ready == NULL)
        return NULL;
    ready->value = value == Py_None ? NULL : value;
    Py_XINCREF(ready->value);
    ready->stop = NULL;
    PyObject_GC_Track((PyObject *)ready);
#if PY_VERSION_HEX >= 0x030C0000
    if (ready->value != NULL) {
        ready->stop = PyObject_CallOneArg(PyExc_StopIteration, ready->value);
        if (ready->stop == NULL) {
            Py_DECREF(ready);
            return NULL;
        }
    }
#endif
    return (PyObject *)ready;
}

#endif
