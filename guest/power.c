/*
 * power.c - the ways a run ends. Each falls back to a halt with interrupts off.
 */
#include "power.h"

#include <stdint.h>

#include "cpu.h"

#define SLEEP_CONTROL_PORT 0x604 /* ACPI sleep control register */
#define SLEEP_OFF 0x34u          /* SLP_EN, SLP_TYP 5 */
#define KEYBOARD_PORT 0x64
#define KEYBOARD_RESET 0xfeu

static void triple_fault(void)
{
    const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) no_idt = { 0, 0 };

    __asm__ volatile("lidt %0; ud2" : : "m"(no_idt));
}

void power_end(enum power_end end)
{
    interrupts_off();
    if (end == POWER_OFF)
        outb(SLEEP_CONTROL_PORT, SLEEP_OFF);
    else if (end == POWER_RESET)
        outb(KEYBOARD_PORT, KEYBOARD_RESET);
    else if (end == POWER_TRIPLE_FAULT)
        triple_fault();
    for (;;)
        __asm__ volatile("cli; hlt");
}
