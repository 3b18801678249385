/*
 * interrupts.h - exceptions, interrupt controllers and the two timers.
 */
#ifndef GUEST_INTERRUPTS_H
#define GUEST_INTERRUPTS_H

#include <stdbool.h>
#include <stdint.h>

struct interrupt_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

enum {
    VECTOR_LAPIC_TIMER = 0x40,
    VECTOR_PIT = 0x41,
    VECTOR_SERIAL = 0x44,
    VECTOR_WORK_IPI = 0x50,
    VECTOR_VIRTIO = 0x60, /* plus the slot number */
    VECTOR_SPURIOUS = 0xff,
};

enum timer_mode { TIMER_PERIODIC, TIMER_ONESHOT, TIMER_DEADLINE };

extern volatile uint64_t pit_ticks;

/* vCPU 0: builds the IDT, masks the PIC, opens the IOAPIC pins. */
void interrupts_init(void);

/* Every processor: loads the IDT, switches its LAPIC on. */
void interrupts_init_cpu(void);

/* vCPU 0, interrupts on: starts the PIT and measures LAPIC timer and TSC against it.
 * A `lapic_hz` other than 0 is believed for the LAPIC timer. False when the PIT does not tick. */
bool timers_init(uint32_t tick_ms, enum timer_mode mode, uint64_t lapic_hz);

/* Every processor: starts its own LAPIC timer. */
void timers_start_cpu(void);

/* Spins, by TSC once timers_init() has measured it. */
void timers_delay_us(uint32_t us);

uint32_t lapic_id(void);
void lapic_send_init(uint32_t apic_id);
void lapic_send_startup(uint32_t apic_id, uint32_t trampoline_gpa);
void lapic_send_work_to_others(void);

#endif
