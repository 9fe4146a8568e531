"""Lock modes and the tables of the lock rules, one row a mode (docs/design.md, rules 1 to 3)."""

from libc.stdint cimport uint8_t

cdef enum:
    IV = -1
    NL = 0
    CR = 1
    CW = 2
    PR = 3
    PW = 4
    EX = 5

cdef extern from *:
    """
    /* Rule 1. Which granted modes keep a request from being granted: one bit a mode.
                                             EX PW PR CW CR NL */
    static const uint8_t dlm_conflicts[6] = {
        /* NL */ 0x00,                    /*  .  .  .  .  .  . */
        /* CR */ 0x20,                    /*  x  .  .  .  .  . */
        /* CW */ 0x38,                    /*  x  x  x  .  .  . */
        /* PR */ 0x34,                    /*  x  x  .  x  .  . */
        /* PW */ 0x3c,                    /*  x  x  x  x  .  . */
        /* EX */ 0x3e,                    /*  x  x  x  x  x  . */
    };

    /* Rule 2. What a grant does with the lock value block: 1 reads it into the lock,
       0 writes or invalidates it, -1 neither. Row: held, IV first. Column: granted. */
    static const int8_t dlm_lvb_action[7][6] = {
        /*          NL  CR  CW  PR  PW  EX */
        /* IV */ {   1,  1,  1,  1,  1,  1 },
        /* NL */ {   1,  1,  1,  1,  1,  1 },
        /* CR */ {  -1,  1,  1,  1,  1,  1 },
        /* CW */ {  -1, -1,  1,  1,  1,  1 },
        /* PR */ {  -1, -1, -1,  1,  1,  1 },
        /* PW */ {   0,  0,  0,  0,  0,  1 },
        /* EX */ {   0,  0,  0,  0,  0,  0 },
    };

    /* Rule 3. Conversions that QUECVT may be asked for: one bit a mode converted to. */
    static const uint8_t dlm_quecvt[6] = {
        /*         EX PW PR CW CR NL */
        /* NL */ 0x3e,                    /*  x  x  x  x  x  . */
        /* CR */ 0x3c,                    /*  x  x  x  x  .  . */
        /* CW */ 0x38,                    /*  x  x  x  .  .  . */
        /* PR */ 0x34,                    /*  x  x  .  x  .  . */
        /* PW */ 0x20,                    /*  x  .  .  .  .  . */
        /* EX */ 0x00,                    /*  .  .  .  .  .  . */
    };
    """
    const uint8_t dlm_conflicts[6]
    const signed char dlm_lvb_action[7][6]
    const uint8_t dlm_quecvt[6]


cdef inline bint modes_compatible(int granted, int requested) noexcept nogil:
    return granted <= NL or requested <= NL or not (dlm_conflicts[requested] >> granted & 1)


cdef inline bint may_quecvt(int granted, int requested) noexcept nogil:
    return dlm_quecvt[granted] >> requested & 1
