/*
 * serial.c - the console.
 *
 * Input is taken by interrupt only, never by polling, so an echoed line proves that the receive
 * interrupt works. Lines end with CR or LF; longer ones are cut at SERIAL_LINE_SIZE - 1.
 */
#include "serial.h"

#include "cpu.h"

#define UART_PORT 0x3f8
#define UART_DATA (UART_PORT + 0)
#define UART_IER (UART_PORT + 1)
#define UART_FCR (UART_PORT + 2)
#define UART_LCR (UART_PORT + 3)
#define UART_MCR (UART_PORT + 4)
#define UART_LSR (UART_PORT + 5)

#define LSR_DATA_READY 0x01u
#define LSR_TRANSMIT_EMPTY 0x20u
#define INPUT_SIZE 1024u /* a power of two */

/* Written by the interrupt handler (head) and the main loop (tail), both on vCPU 0. */
static char input[INPUT_SIZE];
static volatile uint32_t input_head;
static uint32_t input_tail;

void serial_init(void)
{
    outb(UART_IER, 0);
    outb(UART_LCR, 0x80); /* divisor latch: 115200 baud */
    outb(UART_DATA, 1);
    outb(UART_IER, 0);
    outb(UART_LCR, 0x03); /* 8N1 */
    outb(UART_FCR, 0x07); /* FIFOs on and empty, interrupt at 1 byte */
    outb(UART_MCR, 0x0b); /* DTR, RTS, OUT2: OUT2 gates the interrupt on a PC */
}

void serial_write(const char *text, unsigned length)
{
    for (unsigned i = 0; i < length; i++) {
        while (!(inb(UART_LSR) & LSR_TRANSMIT_EMPTY))
            cpu_pause();
        outb(UART_DATA, (uint8_t)text[i]);
    }
}

void serial_input_start(void)
{
    outb(UART_IER, 0x01);
}

void serial_interrupt(void)
{
    while (inb(UART_LSR) & LSR_DATA_READY) {
        const char c = (char)inb(UART_DATA);

        if (input_head - input_tail < INPUT_SIZE) {
            input[input_head % INPUT_SIZE] = c;
            compiler_barrier();
            input_head++;
        }
    }
}

bool serial_take_line(char *ret_line)
{
    const uint32_t head = input_head;
    unsigned length = 0;

    for (uint32_t at = input_tail; at != head; at++) {
        const char c = input[at % INPUT_SIZE];

        if (c == '\n' || c == '\r') {
            ret_line[length] = '\0';
            input_tail = at + 1;
            if (length)
                return true;
        } else if (length < SERIAL_LINE_SIZE - 1) {
            ret_line[length++] = c;
        }
    }
    return false;
}
