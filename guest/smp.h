/*
 * smp.h - starting the other processors.
 */
#ifndef GUEST_SMP_H
#define GUEST_SMP_H

#include <stdbool.h>
#include <stdint.h>

#define TRAMPOLINE_GPA 0x8000u

/* Makes the calling processor cpus[index]: from here on cpu_this() works. */
void smp_adopt_cpu(uint32_t index);

/* Takes the stacks from RAM. */
void smp_prepare(uint32_t count);

/* Starts cpus[1..count-1], one after the other; each then runs `ap_work` (which never returns).
 * False, with a BAD line, when one does not come up. */
bool smp_start(uint32_t count, void (*ap_work)(void));

/* Where trampoline.S arrives. */
void smp_ap_main(void);

#endif
