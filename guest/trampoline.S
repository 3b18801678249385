/*
 * trampoline.S - how an application processor gets from real mode to C.
 *
 * smp.c copies trampoline_start..trampoline_end to TRAMPOLINE_GPA, writes the page table root into
 * the copy of trampoline_cr3, and sends INIT and SIPI. The processor wakes with CS = gpa >> 4 and
 * IP = 0, and goes to 64-bit mode in one step: PAE and LME first, then PE and PG together.
 * Processors are started one by one, so one trampoline_stack is enough.
 */
    .text
    .code16
    .globl  trampoline_start, trampoline_end, trampoline_cr3, trampoline_stack
trampoline_start:
    cli
    cld
    mov     %cs, %ax
    mov     %ax, %ds
    lgdtl   trampoline_gdtr - trampoline_start
    mov     $0x620, %eax            /* CR4: PAE, OSFXSR, OSXMMEXCPT */
    mov     %eax, %cr4
    mov     trampoline_cr3 - trampoline_start, %eax
    mov     %eax, %cr3
    mov     $0xc0000080, %ecx       /* EFER.LME */
    rdmsr
    or      $0x100, %eax
    wrmsr
    mov     $0x80010033, %eax       /* CR0: PG, WP, NE, ET, MP, PE; caches on */
    mov     %eax, %cr0
    ljmpl   $0x10, $trampoline_64

    .balign 8
trampoline_gdtr:
    .word   31
    .long   guest_gdt
    .balign 8
trampoline_cr3:
    .long   0
trampoline_end:

    .code64
trampoline_64:
    mov     $0x18, %eax
    mov     %eax, %ds
    mov     %eax, %es
    mov     %eax, %ss
    xor     %eax, %eax
    mov     %eax, %fs
    mov     %eax, %gs
    lgdt    guest_gdtr(%rip)
    mov     trampoline_stack(%rip), %rsp
    call    smp_ap_main
1:
    cli
    hlt
    jmp     1b

    .section .data
    .balign 8
trampoline_stack:
    .quad   0

    .section .note.GNU-stack, "", @progbits
