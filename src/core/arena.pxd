"""The arena: what a lockspace is made of, in one flat region (docs/design.md, "The arena").

Everything links by 32-bit index; index 0 is nobody. No address, no file descriptor, no
Python object is in it, so that any process may map it. Who may write what:

    header      constant after creation, but for the counters at its end (atomic)
    shard       its mutex
    proc        its owner; `doorbell` and `purger` atomically by anybody
    client      its owner; `ready` and `fd_sync` atomically by anybody
    rsb, lkb    the mutex of their shard; `futex` also read without it
    lvb, name   the mutex of the shard of whoever refers to them
"""

from libc.stdint cimport int8_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_mutexattr_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* m, pthread_mutexattr_t* attr)
    int pthread_mutex_lock(pthread_mutex_t* m)
    int pthread_mutex_trylock(pthread_mutex_t* m)
    int pthread_mutex_unlock(pthread_mutex_t* m)

cdef extern from "sys.h":
    void crash_point() noexcept nogil
    void store_state(
        int8_t* state, int grmode, int rqmode, int queue, int highbast) noexcept nogil

cdef enum:
    LAYOUT = 6               # raise with every change of the structs below
    NAME_INLINE = 24         # longer names go to a slot of their own
    NAME_MAX = 64
    MAX_DEATHS = 512         # deaths a connection may miss between two dispatches
    SEQ_START = 0x40000000   # leaves room before it, for HEADQUE
    NOBODY = 0xffff          # lkb_t.client of an orphan

cdef enum:                   # lkb_t.queue
    Q_NONE = 0
    Q_WAITING = 1
    Q_GRANTED = 2
    Q_CONVERT = 3
    Q_HANDLE = 4             # not in the lock manager: waits for its own handle (deadlock search)

cdef enum:                   # lkb_t.bits
    B_USED = 1
    B_SYNC = 2               # a native handle: completions go to its futex, not to the events
    B_ORPHAN = 4
    B_OWN_LVB = 8            # its lvb slot is exchanged with the resource's (rule 22)
    B_HAS_FD = 16            # the owner polls this lock's own descriptor
    B_FD_SYNC = 32           # on its client's list of descriptors to bring up to date
    B_READY = 64             # on its client's list of locks that have events
    B_DIRTY = 128            # the holder has written its lvb slot

cdef enum:                   # lkb_t.futex; 0: no thread waits
    WAITED = 1
    LEFT_TO_WAITER = 2       # closed under a waiting thread, which is to free the slot
    ENDED = 3                # the request has ended, the thread is still to wake

cdef enum:                   # client_t.rescan
    RESCAN_FDS = 1
    RESCAN_EVENTS = 2

cdef enum:                   # rsb_t.flags
    R_USED = 1
    R_INVALID = 2            # the lock value block is not valid
    R_POLLED = 4             # some lock on it has a descriptor of its own

cdef struct header_t:
    uint64_t magic
    uint32_t layout
    uint32_t lvb_len
    uint64_t size
    uint64_t seed            # of the name hash
    uint32_t n_shards, n_procs, n_clients, n_buckets, n_rsbs, n_lkbs, n_lvbs, n_names
    uint32_t futex_flags
    unsigned char boot[16]   # the boot it belongs to; a lockspace does not outlive one
    uint64_t pid_space       # of the threads whose ids are in mutexes
    uint64_t off_shards, off_procs, off_clients, off_buckets
    uint64_t off_rsbs, off_lkbs, off_lvbs, off_names
    uint64_t off_homes[4]    # by kind of slot: a byte for each
    # counters
    uint32_t next_rsb, next_lkb, next_lvb, next_name
    uint32_t next_node
    uint32_t n_orphaned
    uint32_t searching       # node that searches for a deadlock, 0 nobody
    uint32_t n_deaths
    uint32_t deaths[MAX_DEATHS]    # nodes that died, the last ones, by n_deaths modulo

cdef struct shard_t:         # one cache line each
    uint32_t mutex
    uint32_t free[4]         # by kind: the first free slot
    uint32_t used_rsbs, used_lkbs
    uint32_t repaired        # its owner died inside: others may not have been told
    uint64_t token           # of resources that are gone: a new one starts above
    uint32_t changes         # how often the mutex was given up: see view.pxi
    uint32_t padding[5]

cdef enum:                   # where a slot is: homes[kind][slot]; 1 + its shard, or
    HOME_STOCK = 0           # never used
    HOME_MOVING = 0x7e       # on its way from a shard to another: see proc_t.moving
    HOME_MARK = 0x80         # in use; only while a shard is repaired

cdef enum:                   # the lower two bits of proc_t.state; above, the pid
    P_FREE = 0
    P_BETWEEN = 1            # joining or leaving: has no connections
    P_ALIVE = 2
    P_DEAD = 3               # found dead; what is left of its threads stops at the next mutex
    P_BITS = 2
    P_MASK = 3

cdef enum:                   # proc_t.doorbell
    QUIET = 0
    RUNG = 1
    ASLEEP = 2

cdef enum:
    LIVES = 4                # processes that watch each process

cdef struct proc_t:          # a process that has the arena mapped
    uint32_t state
    uint32_t pid
    uint64_t started         # clock ticks since boot: tells it from a later one of that pid
    pthread_mutex_t life[LIVES]    # robust; held by its helper thread as long as it lives
    uint64_t padding[2]      # `state` is read with each request; what follows changes often
    uint32_t doorbell        # RUNG, or ASLEEP: its helper thread has to be woken
    uint32_t in_flight       # threads that have changed something and not told all concerned
    uint32_t purger          # proc + 1 that clears up after it
    uint32_t purged_since    # centiseconds
    uint32_t moving          # slot that it moves between shards, of kind
    uint32_t moving_kind

cdef struct client_t:
    uint32_t claim           # proc + 1 whose it is, 0: free slot. Changes
    uint32_t node            # together with its number, which is never used again
    uint32_t ready           # locks with events, newest first
    uint32_t fd_sync         # locks whose descriptor may be out of date
    uint32_t listening       # events wanted: raw verbs used, or the lockspace's descriptor open
    uint32_t born            # locks it has opened
    uint32_t deaths_read     # of header_t.n_deaths
    uint32_t rescan          # lists that may lack a lock: somebody died over it
    uint64_t events          # descriptor of its events + 1, and its number: for others

# An uncontended acquire or release touches the first half of each of these two, and no more.
cdef struct rsb_t:
    uint32_t granted, converting, converting_tail, waiting, waiting_tail
    uint32_t lvb             # 0: never written
    uint64_t token           # of the last grant
    uint8_t flags
    uint8_t held_mask        # bit m: held[m - 1] > 0
    uint8_t wanted_mask      # bit m: wanted[m - 1] > 0
    uint8_t basted           # all granted up to `basted_token` know of a waiter for this mode
    uint32_t held[5]         # locks by granted mode, CR to EX, granted and converting
    uint32_t n_locks
    uint16_t special         # queued locks whose flags break the order of the queue
    uint8_t shard
    uint8_t name_len
    # second half
    uint32_t chain, hash
    uint32_t wanted[5]       # locks by requested mode, CR to EX, converting and waiting
    uint32_t name_slot       # 0: the name is below
    uint64_t basted_token
    unsigned char name[NAME_INLINE]

cdef struct lkb_t:
    uint32_t next, prev      # on its queue, or next free
    uint32_t rsb
    uint16_t client
    uint8_t shard
    uint8_t bits
    int8_t grmode, rqmode
    uint8_t queue
    uint8_t highbast         # strictest mode the holder was told of since it was granted
    uint32_t exflags
    uint64_t token
    uint32_t owner           # thread that asked last, 0 nobody in particular
    uint32_t since           # centiseconds
    uint8_t sbflags
    uint8_t trybast          # a request that did not wait asked for it
    uint8_t has_cast
    uint8_t bast_first       # notices that wait to be read: before the completion,
    # second half
    uint8_t bast_then        # and after it
    int8_t granted_before    # mode at the last completion read: decides if an lvb goes with one
    int8_t cast_mode         # of the completion that waits to be read
    uint8_t cast_sb
    uint32_t gen             # counts the uses of this slot; upper half of the lkid
    uint32_t futex           # WAITED while a thread waits for the request to end
    uint32_t ready_next      # list of client_t.ready; of an orphan: the node that left it
    uint32_t fd_next         # list of client_t.fd_sync
    uint32_t lvb             # 0: has none
    int32_t status           # of the last request
    uint32_t seq             # order within its queue
    uint32_t born            # order among the locks of its client, or among orphans
    int32_t fd               # its own descriptor in its owner's process + 1
    uint32_t duplicated      # others may raise that, which the owner does not see

# What a process keeps for a connection of its own, outside of the arena.
cdef struct port_t:
    pthread_mutex_t mutex    # over the raising and clearing of descriptors
    bint open
    int events               # the lockspace's eventfd, -1 none
    bint backlog             # events were read from the arena and not given out yet
    int32_t* fds             # by lock: its own eventfd * 2 + 2 + raised, 0 none

# One process's view of an arena.
cdef struct arena_t:
    port_t* ports            # by client
    uint32_t* next_[4]       # by kind: first slot of the stock
    uint32_t limits[4]
    unsigned char* homes[4]
    unsigned char* bucket_pages     # of a shared one: those known to have memory
    bint full                # the tmpfs has no memory left
    bint joined              # just now
    void* duplicates         # of descriptors of others: see direct.pxi; NULL none
    header_t* hdr
    shard_t* shards
    proc_t* procs
    uint32_t me              # this process in `procs`
    uint32_t* state          # its state there,
    uint32_t alive           # which ought to be this
    uint32_t outside         # of who has not joined
    client_t* clients
    uint32_t* buckets
    rsb_t* rsbs
    lkb_t* lkbs
    unsigned char* lvbs
    unsigned char* names
    uint32_t lvb_len
    uint32_t shard_mask
    uint32_t bucket_mask
    int futex_flags


cdef inline unsigned char* lvb_at(arena_t* a, uint32_t slot) noexcept nogil:
    return a.lvbs + <size_t>slot * a.lvb_len


cdef inline unsigned char* name_at(arena_t* a, rsb_t* r) noexcept nogil:
    if r.name_slot:
        return a.names + <size_t>r.name_slot * NAME_MAX
    return r.name


cdef inline bint is_zombie(lkb_t* k) noexcept nogil:
    """Return whether a lock is gone, and only waits for its last event to be read."""
    return k.rsb == 0


cdef inline void set_state(
    lkb_t* k, int queue, int grmode, int rqmode
) noexcept nogil:
    """Move a lock from one state to another, in one store: whoever dies, it is in one of them."""
    crash_point()
    store_state(&k.grmode, grmode, rqmode, queue, k.highbast)
    crash_point()


cdef inline shard_t* shard_of(arena_t* a, lkb_t* k) noexcept nogil:
    return &a.shards[k.shard]


cdef inline uint32_t lkb_index(arena_t* a, lkb_t* k) noexcept nogil:
    return <uint32_t>(k - a.lkbs)


cdef inline uint32_t rsb_index(arena_t* a, rsb_t* r) noexcept nogil:
    return <uint32_t>(r - a.rsbs)
