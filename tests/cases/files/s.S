#include "a.h"
        .globl s
        .data
s:      .long A
        .section .note.GNU-stack, "", @progbits
