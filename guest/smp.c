/*
 * smp.c - starting the other processors by INIT, SIPI, SIPI.
 *
 * APIC ids are taken to be 0..count-1, as every loader of ours numbers them.
 */
#include "smp.h"

#include "cpu.h"
#include "interrupts.h"
#include "paging.h"
#include "print.h"
#include "ram.h"

#define MSR_GS_BASE 0xc0000101u
#define STACK_SIZE 16384u
#define START_TRIES 500u
#define START_TRY_US 10000u

extern const char trampoline_start[], trampoline_end[], trampoline_cr3[];
extern uint64_t trampoline_stack;

struct cpu cpus[CPU_MAX];
uint32_t cpu_count = 1;

static volatile uint32_t starting_index;
static uint8_t *stacks; /* [cpus - 1][STACK_SIZE] */
static void (*work)(void);

void smp_adopt_cpu(uint32_t index)
{
    struct cpu *cpu = &cpus[index];

    cpu->self = cpu;
    cpu->index = index;
    cpu->apic_id = lapic_id();
    wrmsr(MSR_GS_BASE, (uint64_t)cpu);
}

void smp_ap_main(void)
{
    interrupts_init_cpu();
    smp_adopt_cpu(starting_index);
    cpu_this()->ready = true;
    timers_start_cpu();
    work();
}

static void install_trampoline(void)
{
    volatile char *copy = (volatile char *)(uint64_t)TRAMPOLINE_GPA;
    const unsigned size = (unsigned)(trampoline_end - trampoline_start);

    for (unsigned i = 0; i < size; i++)
        copy[i] = trampoline_start[i];
    *(volatile uint32_t *)(uint64_t)(TRAMPOLINE_GPA + (trampoline_cr3 - trampoline_start)) =
        paging_root();
}

static bool start_one(uint32_t index)
{
    starting_index = index;
    trampoline_stack = (uint64_t)(stacks + (uint64_t)index * STACK_SIZE);
    lapic_send_init(index);
    timers_delay_us(10000);
    lapic_send_startup(index, TRAMPOLINE_GPA);
    timers_delay_us(200);
    if (!cpus[index].ready)
        lapic_send_startup(index, TRAMPOLINE_GPA);
    for (unsigned i = 0; i < START_TRIES && !cpus[index].ready; i++)
        timers_delay_us(START_TRY_US);
    return cpus[index].ready;
}

void smp_prepare(uint32_t count)
{
    if (count > 1)
        stacks = ram_alloc((uint64_t)(count - 1) * STACK_SIZE);
}

bool smp_start(uint32_t count, void (*ap_work)(void))
{
    work = ap_work;
    install_trampoline();
    for (uint32_t index = 1; index < count; index++) {
        if (!start_one(index)) {
            print_bad("cpu %u does not start", index);
            return false;
        }
        cpu_count = index + 1;
    }
    return true;
}
