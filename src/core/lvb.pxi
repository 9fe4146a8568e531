# The lock value block (rules 18 to 22).


cdef bint publish_lvb(arena_t* a, shard_t* s, rsb_t* r, const unsigned char* value) noexcept nogil:
    """Make `value` the resource's block. The switch is one store: nobody ever sees half of it."""
    cdef uint32_t old = r.lvb
    cdef uint32_t fresh = take_slot(a, s, KIND_LVB)
    if fresh == 0:
        return False
    crash_point()
    memcpy(lvb_at(a, fresh), value, a.lvb_len)
    crash_point()
    store32(&r.lvb, fresh)
    crash_point()
    if old:
        push_free(a, s, KIND_LVB, old)
    r.flags &= ~R_INVALID
    crash_point()
    return True


cdef void publish_dirty(arena_t* a, shard_t* s, rsb_t* r, lkb_t* k) noexcept nogil:
    """Make the slot a native holder wrote into the resource's block, without a copy."""
    cdef uint32_t old = r.lvb
    cdef uint32_t fresh = k.lvb
    crash_point()
    store32(&r.lvb, fresh)
    crash_point()
    k.lvb = 0
    k.bits &= ~B_DIRTY
    crash_point()
    if old:
        push_free(a, s, KIND_LVB, old)
    r.flags &= ~R_INVALID
    crash_point()


cdef void lvb_at_grant(arena_t* a, shard_t* s, rsb_t* r, lkb_t* k) noexcept nogil:
    """Read or write the block as the conversion from grmode to rqmode demands (rules 2 and 19)."""
    cdef int action = dlm_lvb_action[k.grmode + 1][k.rqmode]
    if action == 1:
        if not k.bits & B_OWN_LVB or not k.exflags & LKF_VALBLK or r.lvb == 0:
            return
        crash_point()
        memcpy(lvb_at(a, k.lvb), lvb_at(a, r.lvb), a.lvb_len)
    elif action == 0:
        if k.exflags & LKF_IVVALBLK:
            r.flags |= R_INVALID
            return
        if not k.bits & B_OWN_LVB or not k.exflags & LKF_VALBLK:
            return
        publish_lvb(a, s, r, lvb_at(a, k.lvb))
    if r.flags & R_INVALID:
        k.sbflags |= SBF_VALNOTVALID


cdef void lvb_at_unlock(arena_t* a, shard_t* s, rsb_t* r, lkb_t* k) noexcept nogil:
    if k.grmode < PW:
        return
    if k.exflags & LKF_IVVALBLK:
        r.flags |= R_INVALID
    elif k.bits & B_OWN_LVB and k.exflags & LKF_VALBLK:
        publish_lvb(a, s, r, lvb_at(a, k.lvb))
