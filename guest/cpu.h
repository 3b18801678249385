/*
 * cpu.h - the instructions C has no word for, and what the guest keeps per processor.
 *
 * Device registers are read and written by plain 32-bit moves in asm, never through a volatile
 * pointer: a compiler may fold such an access into an arithmetic instruction, and an emulating
 * hypervisor need not know all of those.
 */
#ifndef GUEST_CPU_H
#define GUEST_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SIZE 4096u
#define CPU_MAX 32u

/* What each processor owns. The processor itself writes; vCPU 0 reads the volatile members. */
struct cpu {
    struct cpu *self; /* at offset 0: %gs:0 */
    uint32_t index;
    uint32_t apic_id;
    volatile uint64_t lapic_ticks;
    volatile uint64_t work_ipis;   /* "do one count" interrupts received */
    volatile uint64_t counts_done; /* counts whose work is finished */
    volatile bool ready;

    /* Verdicts of the last finished count. */
    bool memory_ok;
    bool sse_ok;
    bool x87_ok;
    bool msr_ok;
    bool dr_ok;
    bool tsc_ok;

    uint64_t last_tsc;
    uint64_t ticks_seen;    /* for vCPU 0's watchdog */
    uint64_t ticks_seen_at; /* vCPU 0's tick count when ticks_seen last moved */
    bool reported_stuck;
    bool reported_stopped;
};

extern struct cpu cpus[CPU_MAX];
extern uint32_t cpu_count;

static inline struct cpu *cpu_this(void)
{
    struct cpu *cpu;

    __asm__ volatile("mov %%gs:0, %0" : "=r"(cpu));
    return cpu;
}

static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint32_t mmio_read32(uint64_t gpa)
{
    uint32_t value;

    __asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(gpa) : "memory");
    return value;
}

static inline void mmio_write32(uint64_t gpa, uint32_t value)
{
    __asm__ volatile("movl %0, (%1)" : : "r"(value), "r"(gpa) : "memory");
}

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

static inline void cpuid(uint32_t leaf, uint32_t ret_regs[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(ret_regs[0]), "=b"(ret_regs[1]), "=c"(ret_regs[2]), "=d"(ret_regs[3])
                     : "a"(leaf), "c"(0));
}

/* A general protection fault in either comes back as false: see interrupt_dispatch(). */
static inline bool rdmsr_safe(uint32_t index, uint64_t *ret_value)
{
    uint32_t low, high, failed;

    __asm__ volatile("xor %2, %2\n"
                     "1: rdmsr\n"
                     "jmp 3f\n"
                     "2: mov $1, %2\n"
                     "xor %%eax, %%eax\n"
                     "xor %%edx, %%edx\n"
                     "3:\n"
                     ".pushsection .fixups, \"a\"\n"
                     ".quad 1b, 2b\n"
                     ".popsection\n"
                     : "=&a"(low), "=&d"(high), "=&r"(failed)
                     : "c"(index)
                     : "memory");
    *ret_value = (uint64_t)high << 32 | low;
    return !failed;
}

static inline bool wrmsr_safe(uint32_t index, uint64_t value)
{
    uint32_t failed;

    __asm__ volatile("xor %0, %0\n"
                     "1: wrmsr\n"
                     "jmp 3f\n"
                     "2: mov $1, %0\n"
                     "3:\n"
                     ".pushsection .fixups, \"a\"\n"
                     ".quad 1b, 2b\n"
                     ".popsection\n"
                     : "=&r"(failed)
                     : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
    return !failed;
}

static inline void wrmsr(uint32_t index, uint64_t value)
{
    (void)wrmsr_safe(index, value);
}

static inline void interrupts_on(void)
{
    __asm__ volatile("sti" : : : "memory");
}

static inline void interrupts_off(void)
{
    __asm__ volatile("cli" : : : "memory");
}

/* STI's shadow makes the pair atomic: an interrupt pending since interrupts_off() ends the HLT. */
static inline void interrupts_on_and_halt(void)
{
    __asm__ volatile("sti; hlt" : : : "memory");
}

static inline void cpu_pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

static inline void compiler_barrier(void)
{
    __asm__ volatile("" : : : "memory");
}

/* The finaliser of splitmix64: every bit of the input moves every bit of the output. */
static inline uint64_t mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

#define MIX64_STEP UINT64_C(0x9e3779b97f4a7c15)

#endif
