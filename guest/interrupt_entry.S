/*
 * interrupt_entry.S - one stub per vector, all leading to interrupt_dispatch().
 *
 * Each stub is padded to 16 bytes, so that the IDT can be computed from interrupt_stubs alone.
 * Pushed from high to low: what the processor pushes, error code (0 where there is none), vector,
 * then the general registers: struct interrupt_frame in interrupts.h. XMM registers are not saved
 * because no C code of ours uses them: they hold known values.
 */
    .text
    .code64
    .globl  interrupt_stubs
    .balign 16
interrupt_stubs:
    .set    vector, 0
    .rept   256
    .balign 16
    .if     (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21)
    .else
    pushq   $0
    .endif
    pushq   $vector
    jmp     interrupt_common
    .set    vector, vector + 1
    .endr

interrupt_common:
    push    %rax
    push    %rcx
    push    %rdx
    push    %rbx
    push    %rbp
    push    %rsi
    push    %rdi
    push    %r8
    push    %r9
    push    %r10
    push    %r11
    push    %r12
    push    %r13
    push    %r14
    push    %r15
    cld
    mov     %rsp, %rdi
    call    interrupt_dispatch
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %r11
    pop     %r10
    pop     %r9
    pop     %r8
    pop     %rdi
    pop     %rsi
    pop     %rbp
    pop     %rbx
    pop     %rdx
    pop     %rcx
    pop     %rax
    add     $16, %rsp
    iretq

    .section .note.GNU-stack, "", @progbits
