# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: nonecheck=False, initializedcheck=False, autotestdict=False, auto_pickle=False
# cython: binding=False, embedsignature=True, embedsignature.format=clinic
"""The lock state machine. Read modes.pxd, grant.pxi, requests.pxi, then lock.pxi."""

cimport cython

from libc.errno cimport (
    EAGAIN, EBUSY, EINTR, EINVAL, ENOENT, ENOSPC, ENOSYS, EPERM, ETIMEDOUT
)
from libc.errno cimport errno
from libc.stdint cimport (
    int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t,
)
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcmp, memcpy, memset

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from posix.unistd cimport close

from arena cimport *
from flags cimport *
from modes cimport *
from mutex cimport *
from sys cimport *

include "check.pxi"
include "slots.pxi"
include "resources.pxi"
include "queues.pxi"
include "lvb.pxi"
include "notices.pxi"
include "grant.pxi"
include "pump.pxi"
include "requests.pxi"
include "direct.pxi"
include "purge.pxi"
include "repair.pxi"
include "procs.pxi"
include "helper.pxi"

include "words.pxi"
include "lockspace.pxi"
include "view.pxi"
include "client.pxi"
include "events.pxi"
include "deadlock.pxi"
include "line.pxi"
include "lock.pxi"
include "native.pxi"
include "wait.pxi"
include "held.pxi"
include "bell.pxi"
include "mailbox.pxi"
include "gate.pxi"
include "asyncgate.pxi"
include "crash.pxi"

if dlm_watch_fork() != 0:
    raise ImportError("pydlm cannot watch for fork: no memory")
