"""The little the core needs of the machine: atomics, futex, clock, eventfd."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "sys.h":
    enum: FUTEX_PRIVATE_FLAG
    enum: EFD_CLOEXEC
    enum: EFD_NONBLOCK
    enum: PROT_READ
    enum: PROT_WRITE
    enum: MAP_PRIVATE
    enum: MAP_SHARED
    enum: MAP_ANONYMOUS
    enum: MAP_NORESERVE
    enum: MADV_DONTFORK
    void* MAP_FAILED
    void prefetch(const void* p) noexcept nogil
    uint32_t load32(uint32_t* p) noexcept nogil
    uint64_t load64(uint64_t* p) noexcept nogil
    void store32(uint32_t* p, uint32_t v) noexcept nogil
    uint32_t swap32(uint32_t* p, uint32_t v) noexcept nogil
    uint64_t swap64(uint64_t* p, uint64_t v) noexcept nogil
    uint32_t add32(uint32_t* p, uint32_t v) noexcept nogil
    uint32_t and32(uint32_t* p, uint32_t v) noexcept nogil
    uint32_t or32(uint32_t* p, uint32_t v) noexcept nogil
    bint cas8(unsigned char* p, unsigned char old, unsigned char new_) noexcept nogil
    bint cas64(uint64_t* p, uint64_t old, uint64_t new_) noexcept nogil
    bint cas32(uint32_t* p, uint32_t old, uint32_t new_) noexcept nogil
    int futex_wait(uint32_t* word, uint32_t value, int64_t until, int flags) noexcept nogil
    void futex_wake(uint32_t* word, int count, int flags) noexcept nogil
    int64_t monotonic_ns() noexcept nogil
    uint32_t coarse_centiseconds() noexcept nogil
    int eventfd(unsigned int initial, int flags) noexcept nogil
    void eventfd_raise(int fd) noexcept nogil
    void eventfd_clear(int fd) noexcept nogil
    void* mmap(void* addr, size_t length, int prot, int flags, int fd, long offset) noexcept nogil
    int sched_yield() noexcept nogil
    int madvise(void* addr, size_t length, int advice) noexcept nogil
    int populate(void* start, size_t size) noexcept nogil
    int munmap(void* addr, size_t length) noexcept nogil
