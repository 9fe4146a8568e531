# Looking at a shared arena without being able to harm it: mapped read-only, no mutex taken.
#
# A shard counts how often its mutex was given up. What was copied while the mutex was free and
# the count did not move is what it was at one moment; else it is copied again.

cdef enum:
    VIEW_TRIES = 200         # and so long; then the shard's owner is stopped, or dead
    VIEW_PATIENCE = 20000000  # nanoseconds


cdef struct seen_t:
    lkb_t lkb
    uint32_t index
    uint32_t pid
    uint64_t started
    uint32_t node


cdef uint32_t copy_queue(
    arena_t* a, uint32_t head, seen_t* out, uint32_t n, uint32_t room
) noexcept nogil:
    cdef uint32_t i = head, claim
    cdef client_t* c
    while 0 < i < a.limits[KIND_LKB] and n < room:
        out[n].lkb = a.lkbs[i]
        out[n].index = i
        out[n].node = out[n].pid = 0
        out[n].started = 0
        if out[n].lkb.client < N_CLIENTS:
            c = &a.clients[out[n].lkb.client]
            claim = c.claim
            out[n].node = c.node
            if 0 < claim <= N_PROCS:
                out[n].pid = a.procs[claim - 1].pid
                out[n].started = a.procs[claim - 1].started
        i = out[n].lkb.next
        n += 1
    return n


cdef bint name_makes_sense(arena_t* a, rsb_t* r) noexcept nogil:
    if r.name_slot:
        return r.name_len <= NAME_MAX and r.name_slot < a.limits[KIND_NAME]
    return r.name_len <= NAME_INLINE


cdef bint copy_resource(
    arena_t* a, uint32_t i, rsb_t* r, unsigned char* name, seen_t* out, uint32_t room, uint32_t* n
) noexcept nogil:
    """Copy a resource and its locks as they were at one moment; False: it would not hold still."""
    cdef shard_t* s
    cdef uint32_t changes, tries = 0
    cdef bint sound
    cdef int64_t give_up = monotonic_ns() + VIEW_PATIENCE
    while True:
        s = &a.shards[a.rsbs[i].shard & a.shard_mask]
        changes = load32(&s.changes)
        if load32(&s.mutex) & FUTEX_TID == 0:
            r[0] = a.rsbs[i]
            n[0] = 0
            sound = not r.flags & R_USED or name_makes_sense(a, r)
            if r.flags & R_USED and sound:
                memcpy(name, name_at(a, r) if r.name_slot else &r.name[0], r.name_len)
                n[0] = copy_queue(a, r.granted, out, 0, room)
                n[0] = copy_queue(a, r.converting, out, n[0], room)
                n[0] = copy_queue(a, r.waiting, out, n[0], room)
            if load32(&s.mutex) & FUTEX_TID == 0 and load32(&s.changes) == changes:
                return sound
        tries += 1
        if tries >= VIEW_TRIES and monotonic_ns() > give_up:
            return False
        sched_yield()


cdef object seen_mode(int mode):
    return MODES[mode] if NL <= mode <= EX else None


cdef class View:
    """A shared arena, to be looked at only. `fd`: its file, open for reading."""

    cdef arena_t a
    cdef readonly str name
    cdef uint64_t size

    def __cinit__(self, str name, int fd, bytes boot):
        cdef header_t layout
        cdef void* base
        self.name = name
        self.a.hdr = NULL
        read_layout(fd, boot, &layout)
        base = mmap(NULL, layout.size, PROT_READ, MAP_SHARED, fd, 0)
        if base == MAP_FAILED:
            raise MemoryError
        self.size = layout.size
        attach(&self.a, base)

    def __dealloc__(self):
        if self.a.hdr != NULL:
            munmap(self.a.hdr, self.size)

    @property
    def capacity(self):
        return self.a.limits[KIND_LKB] - 1

    @property
    def lvb_len(self):
        return self.a.lvb_len

    def processes(self):
        """Return (pid, start time in clock ticks since boot) of all processes that are in."""
        return processes_in(&self.a)

    def usage(self):
        """Return how many locks and resources exist, as a dict."""
        return usage_of(&self.a)

    def resources(self, bytes wanted=None):
        """Return a list of (name, whether its lvb is valid, locks), each as it was at one moment.

        A lock is (LockStatus, pid, start time). Queues are in their order: granted,
        converting, waiting. A resource whose shard does not hold still is left out.
        """
        cdef uint32_t i, n = 0, room = 64, each
        cdef rsb_t r
        cdef unsigned char text[NAME_MAX]
        cdef seen_t* out = NULL
        cdef bint ok
        cdef lkb_t* k
        found = []
        for i in range(1, min(load32(&self.a.hdr.next_rsb), self.a.limits[KIND_RSB])):
            if not self.a.rsbs[i].flags & R_USED:
                continue
            while True:
                free(out)
                out = <seen_t*>malloc(room * sizeof(seen_t))
                if out == NULL:
                    raise MemoryError
                with nogil:
                    ok = copy_resource(&self.a, i, &r, text, out, room, &n)
                if n < room or room > self.a.limits[KIND_LKB]:
                    break       # what has more locks than there are goes round in circles
                room *= 2
            if not ok or n == room or not r.flags & R_USED:
                continue
            name = text[:r.name_len]
            if wanted is not None and name != wanted:
                continue
            locks = []
            for each in range(n):
                k = &out[each].lkb
                status = LockStatus(
                    <uint64_t>k.gen << 32 | out[each].index, name, out[each].node,
                    QUEUES[k.queue & 3], seen_mode(k.grmode),
                    seen_mode(k.rqmode if k.queue != Q_GRANTED else IV), k.token,
                    <uint64_t>out[each].pid << 32 | k.owner, k.since / 100.0,
                )
                locks.append((status, out[each].pid, out[each].started))
            found.append((name, bool(not r.flags & R_INVALID), locks))
        free(out)
        return found
