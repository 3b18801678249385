/*
 * serial.h - the 16550 at I/O port 0x3f8: output by polling, input by interrupt (IRQ 4).
 */
#ifndef GUEST_SERIAL_H
#define GUEST_SERIAL_H

#include <stdbool.h>
#include <stdint.h>

#define SERIAL_LINE_SIZE 128u

void serial_init(void);
void serial_write(const char *text, unsigned length);

/* From here on received bytes interrupt; the IOAPIC must be ready. */
void serial_input_start(void);
void serial_interrupt(void);

/* A whole received line without its end, or false. `ret_line` holds SERIAL_LINE_SIZE bytes. */
bool serial_take_line(char *ret_line);

#endif
