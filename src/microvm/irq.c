/*
 * irq.c - interrupt lines into the in-kernel controllers.
 *
 * One ioctl up, one down: when the second returns, the edge is latched in the IOAPIC, the PIC or a
 * LAPIC, so a machine captured from then on has it. A lost or late edge here is a guest that waits
 * for ever for a disk request that is done.
 */
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "microvm/device.h"

static void set_level(const struct irq_line *line, uint32_t level)
{
    const struct kvm_irq_level irq = { .irq = line->gsi, .level = level };

    /* Cannot fail on a VM with its irqchip and a routed GSI; there is nobody to tell if it did. */
    (void)ioctl(line->vm_fd, KVM_IRQ_LINE, &irq);
}

void irq_line_pulse(const struct irq_line *line)
{
    set_level(line, 1);
    set_level(line, 0);
}
