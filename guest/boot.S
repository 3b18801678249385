/*
 * boot.S - the flat file's header and the first instructions of vCPU 0.
 *
 * The loader has put the whole file at load_gpa and enters here in 64-bit mode with the first
 * 4 GiB mapped one to one, interrupts off and RSI at a Linux boot_params page. Nothing else of the
 * loader's is relied on: stack, GDT and page tables are our own before the second screen of C.
 */
    .section .header, "a"
    .ascii  "STFLAT1\0"
    .quad   guest_start             /* load_gpa */
    .quad   guest_entry             /* entry_gpa */
    .quad   guest_memory_size       /* bytes from load_gpa, bss and first stack included */

    .text
    .code64
    .globl  guest_entry
guest_entry:
    cld
    movabs  $boot_stack_top, %rsp
    movabs  $bss_start, %rdi
    movabs  $bss_end, %rcx
    sub     %rdi, %rcx
    shr     $3, %rcx
    xor     %eax, %eax
    rep stosq

    lgdt    guest_gdtr(%rip)
    mov     $0x18, %eax
    mov     %eax, %ds
    mov     %eax, %es
    mov     %eax, %ss
    xor     %eax, %eax
    mov     %eax, %fs
    mov     %eax, %gs
    pushq   $0x10
    lea     1f(%rip), %rax
    push    %rax
    lretq
1:
    mov     %rsi, %rdi              /* boot_params */
    call    guest_main
2:
    cli
    hlt
    jmp     2b

    .section .data
    .balign 8
    .globl  guest_gdt
guest_gdt:
    .quad   0
    .quad   0
    .quad   0x00af9b000000ffff      /* 0x10: 64-bit code */
    .quad   0x00cf93000000ffff      /* 0x18: data */
guest_gdt_end:
    .globl  guest_gdtr
guest_gdtr:
    .word   guest_gdt_end - guest_gdt - 1
    .quad   guest_gdt

    .section .note.GNU-stack, "", @progbits
