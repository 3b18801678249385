/*
 * power.h - the ways a run ends.
 */
#ifndef GUEST_POWER_H
#define GUEST_POWER_H

enum power_end { POWER_OFF, POWER_RESET, POWER_TRIPLE_FAULT, POWER_HALT };

void power_end(enum power_end end) __attribute__((noreturn));

#endif
