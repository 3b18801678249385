/*
 * interrupts.c - exceptions, interrupt controllers and the two timers.
 *
 *     PIT channel 0 --> IOAPIC pin 2 (pin 0 where nobody reroutes GSI 0) --> vCPU 0
 *     16550 IRQ 4 ----> IOAPIC pin 4 ----------------------------------> vCPU 0
 *     virtio slot n --> IOAPIC pin 16 + n, edge -----------------------> vCPU 0
 *     LAPIC timer ----> its own processor, every processor has one
 *     work IPI -------> from vCPU 0 to all others, one per count
 *
 * The PIC is initialised and then fully masked. An exception that no fixup expects, or a vector
 * that nobody opened, is a BAD line and the end of the run: nothing sensible is left to do.
 */
#include "interrupts.h"

#include "cpu.h"
#include "power.h"
#include "print.h"
#include "serial.h"
#include "virtio.h"

#define LAPIC_GPA UINT64_C(0xfee00000)
#define LAPIC_ID 0x20u
#define LAPIC_TPR 0x80u
#define LAPIC_EOI 0xb0u
#define LAPIC_SVR 0xf0u
#define LAPIC_ICR_LOW 0x300u
#define LAPIC_ICR_HIGH 0x310u
#define LAPIC_LVT_TIMER 0x320u
#define LAPIC_LVT_LINT0 0x350u
#define LAPIC_LVT_LINT1 0x360u
#define LAPIC_LVT_ERROR 0x370u
#define LAPIC_TIMER_INITIAL 0x380u
#define LAPIC_TIMER_CURRENT 0x390u
#define LAPIC_TIMER_DIVIDE 0x3e0u
#define LVT_MASKED 0x10000u
#define LVT_TIMER_PERIODIC 0x20000u
#define LVT_TIMER_DEADLINE 0x40000u
#define MSR_TSC_DEADLINE 0x6e0u
#define CPUID_1_ECX_TSC_DEADLINE (1u << 24)

#define IOAPIC_GPA UINT64_C(0xfec00000)
#define IOAPIC_PINS 24u

#define PIT_HZ UINT64_C(1193182)
#define PIT_CHANNEL0 0x40
#define PIT_COMMAND 0x43

#define CALIBRATION_TICKS 4u
#define CALIBRATION_TSC_LIMIT (UINT64_C(1) << 36) /* some 20 s: then the PIT is dead */

struct idt_gate {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_middle;
    uint32_t offset_high, reserved;
};

struct fixup {
    uint64_t fault_rip, resume_rip;
};

extern const char interrupt_stubs[];
extern const struct fixup fixups_start[], fixups_end[];
void interrupt_dispatch(struct interrupt_frame *frame);

volatile uint64_t pit_ticks;

static struct idt_gate idt[256];
static enum timer_mode timer_mode;
static uint32_t timer_initial;     /* LAPIC timer counts per tick */
static uint64_t timer_tsc;         /* TSC cycles per tick */
static uint64_t tsc_per_us = 1000; /* a guess until measured */

static uint32_t lapic_read(uint32_t reg)
{
    return mmio_read32(LAPIC_GPA + reg);
}

static void lapic_write(uint32_t reg, uint32_t value)
{
    mmio_write32(LAPIC_GPA + reg, value);
}

static void timer_rearm(void)
{
    if (timer_mode == TIMER_ONESHOT)
        lapic_write(LAPIC_TIMER_INITIAL, timer_initial);
    else if (timer_mode == TIMER_DEADLINE)
        wrmsr(MSR_TSC_DEADLINE, rdtsc() + timer_tsc);
}

static bool exception_fix_up(struct interrupt_frame *frame)
{
    for (const struct fixup *fixup = fixups_start; fixup < fixups_end; fixup++) {
        if (fixup->fault_rip == frame->rip) {
            frame->rip = fixup->resume_rip;
            return true;
        }
    }
    return false;
}

static void exception(struct interrupt_frame *frame)
{
    uint64_t cr2;

    if (frame->vector == 13 && exception_fix_up(frame))
        return;
    __asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
    print_bad_last("exception %lu error %lx rip %lx rsp %lx cr2 %lx apic %u", frame->vector,
                   frame->error, frame->rip, frame->rsp, cr2, lapic_id());
    power_end(POWER_OFF);
}

/* Called by every stub in interrupt_entry.S. */
void interrupt_dispatch(struct interrupt_frame *frame)
{
    struct cpu *cpu;

    if (frame->vector < 32) {
        exception(frame);
        return;
    }
    if (frame->vector == VECTOR_SPURIOUS)
        return;

    cpu = cpu_this();
    if (frame->vector == VECTOR_LAPIC_TIMER) {
        cpu->lapic_ticks++;
        timer_rearm();
    } else if (frame->vector == VECTOR_PIT) {
        pit_ticks++;
    } else if (frame->vector == VECTOR_WORK_IPI) {
        cpu->work_ipis++;
    } else if (frame->vector == VECTOR_SERIAL) {
        serial_interrupt();
    } else if (frame->vector >= VECTOR_VIRTIO && frame->vector < VECTOR_VIRTIO + VIRTIO_SLOTS) {
        virtio_interrupt((unsigned)(frame->vector - VECTOR_VIRTIO));
    } else {
        print_bad_last("interrupt on vector %lu", frame->vector);
        power_end(POWER_OFF);
    }
    lapic_write(LAPIC_EOI, 0);
}

static void idt_build(void)
{
    for (unsigned vector = 0; vector < 256; vector++) {
        const uint64_t entry = (uint64_t)interrupt_stubs + 16 * vector;

        idt[vector] = (struct idt_gate){
            .offset_low = (uint16_t)entry,
            .selector = 0x10,
            .type = 0x8e, /* interrupt gate: IF is off inside */
            .offset_middle = (uint16_t)(entry >> 16),
            .offset_high = (uint32_t)(entry >> 32),
        };
    }
}

static void pic_mask(void)
{
    outb(0x20, 0x11); /* ICW1: edge, cascade, ICW4 follows */
    outb(0xa0, 0x11);
    outb(0x21, 0x20); /* ICW2: vectors 0x20.. and 0x28.., should one ever come */
    outb(0xa1, 0x28);
    outb(0x21, 0x04);
    outb(0xa1, 0x02);
    outb(0x21, 0x01);
    outb(0xa1, 0x01);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

static void ioapic_write(uint32_t reg, uint32_t value)
{
    mmio_write32(IOAPIC_GPA, reg);
    mmio_write32(IOAPIC_GPA + 0x10, value);
}

/* Edge triggered, active high, fixed delivery to this processor. */
static void ioapic_open_pin(uint32_t pin, uint32_t vector)
{
    ioapic_write(0x10 + 2 * pin + 1, lapic_id() << 24);
    ioapic_write(0x10 + 2 * pin, vector);
}

void interrupts_init(void)
{
    idt_build();
    pic_mask();
    for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++)
        ioapic_write(0x10 + 2 * pin, LVT_MASKED);
    ioapic_open_pin(0, VECTOR_PIT);
    ioapic_open_pin(2, VECTOR_PIT);
    ioapic_open_pin(4, VECTOR_SERIAL);
    for (uint32_t slot = 0; slot < VIRTIO_SLOTS; slot++)
        ioapic_open_pin(16 + slot, VECTOR_VIRTIO + slot);
}

void interrupts_init_cpu(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = { sizeof(idt) - 1, (uint64_t)idt };

    __asm__ volatile("lidt %0" : : "m"(idtr));
    lapic_write(LAPIC_SVR, 0x100 | VECTOR_SPURIOUS);
    lapic_write(LAPIC_TPR, 0);
    lapic_write(LAPIC_LVT_LINT0, LVT_MASKED);
    lapic_write(LAPIC_LVT_LINT1, LVT_MASKED);
    lapic_write(LAPIC_LVT_ERROR, LVT_MASKED);
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
}

static void pit_start(uint32_t tick_ms)
{
    const uint64_t divisor = PIT_HZ * tick_ms / 1000;

    outb(PIT_COMMAND, 0x34); /* channel 0, low then high byte, mode 2: rate generator */
    outb(PIT_CHANNEL0, (uint8_t)divisor);
    outb(PIT_CHANNEL0, (uint8_t)(divisor >> 8));
}

static bool pit_wait_for(uint64_t ticks)
{
    const uint64_t start = rdtsc();

    while (pit_ticks < ticks) {
        cpu_pause();
        if (rdtsc() - start > CALIBRATION_TSC_LIMIT)
            return false;
    }
    return true;
}

static bool deadline_mode_offered(void)
{
    uint32_t regs[4];

    cpuid(1, regs);
    return regs[2] & CPUID_1_ECX_TSC_DEADLINE;
}

bool timers_init(uint32_t tick_ms, enum timer_mode mode, uint64_t lapic_hz)
{
    uint64_t first_tick, tsc;
    uint32_t left;

    timer_mode = mode;
    if (mode == TIMER_DEADLINE && !deadline_mode_offered()) {
        print_bad("timer=deadline: CPUID does not offer it, periodic instead");
        timer_mode = TIMER_PERIODIC;
    }
    pit_start(tick_ms);
    if (!pit_wait_for(1))
        return false;

    first_tick = pit_ticks;
    if (!pit_wait_for(first_tick + 1))
        return false;
    lapic_write(LAPIC_TIMER_DIVIDE, 0x0b); /* by 1 */
    lapic_write(LAPIC_TIMER_INITIAL, UINT32_MAX);
    tsc = rdtsc();
    if (!pit_wait_for(first_tick + 1 + CALIBRATION_TICKS))
        return false;
    left = lapic_read(LAPIC_TIMER_CURRENT);
    tsc = rdtsc() - tsc;
    lapic_write(LAPIC_TIMER_INITIAL, 0);

    timer_initial =
        lapic_hz ? (uint32_t)(lapic_hz * tick_ms / 1000) : (UINT32_MAX - left) / CALIBRATION_TICKS;
    timer_tsc = tsc / CALIBRATION_TICKS;
    tsc_per_us = timer_tsc / (tick_ms * 1000u);
    return timer_initial != 0;
}

void timers_start_cpu(void)
{
    static const uint32_t lvt_mode[] = {
        [TIMER_PERIODIC] = LVT_TIMER_PERIODIC,
        [TIMER_ONESHOT] = 0,
        [TIMER_DEADLINE] = LVT_TIMER_DEADLINE,
    };

    lapic_write(LAPIC_TIMER_DIVIDE, 0x0b);
    lapic_write(LAPIC_LVT_TIMER, VECTOR_LAPIC_TIMER | lvt_mode[timer_mode]);
    __asm__ volatile("mfence" : : : "memory"); /* mode before deadline: Intel SDM 3, 11.5.4.1 */
    if (timer_mode == TIMER_PERIODIC)
        lapic_write(LAPIC_TIMER_INITIAL, timer_initial);
    timer_rearm();
}

void timers_delay_us(uint32_t us)
{
    const uint64_t end = rdtsc() + us * tsc_per_us;

    while (rdtsc() < end)
        cpu_pause();
}

uint32_t lapic_id(void)
{
    return lapic_read(LAPIC_ID) >> 24;
}

static void lapic_send(uint32_t apic_id, uint32_t command)
{
    lapic_write(LAPIC_ICR_HIGH, apic_id << 24);
    lapic_write(LAPIC_ICR_LOW, command);
}

void lapic_send_init(uint32_t apic_id)
{
    lapic_send(apic_id, 0x4500); /* INIT, assert */
}

void lapic_send_startup(uint32_t apic_id, uint32_t trampoline_gpa)
{
    lapic_send(apic_id, 0x4600 | trampoline_gpa >> 12);
}

void lapic_send_work_to_others(void)
{
    lapic_send(0, 0xc4000 | VECTOR_WORK_IPI); /* fixed, all excluding self */
}
