        .globl t
        .data
t:      .long 7
        .section .note.GNU-stack, "", @progbits
