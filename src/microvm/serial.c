/*
 * serial.c - a 16550A serial port, complete enough for Linux's 8250 driver.
 *
 *     guest --THR--> console_write()          console thread --serial_input()--> FIFO --RBR--> guest
 *
 * A byte written is sent at once, so the transmitter is always empty and has no state. Of the
 * receiver, 16 bytes wait here; what finds no room stays with the console, which is called back when
 * there is. A real UART reports data below the trigger level once four character times have passed
 * without another byte; here that time is over at once, so a byte never waits for a timer.
 *
 * The interrupt is an edge. A real port holds its line up while any reason stands, and a guest that
 * serves one reason at a time gets the next edge when the line drops for a moment. So an edge is sent
 * whenever the reason that the port would report becomes another one, and after each byte sent. If an
 * edge is missing, the guest's console hangs until somebody types.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "microvm/console.h"
#include "microvm/device.h"
#include "microvm/device_state.h"

#define SERIAL_STATE_VERSION 1u
#define FIFO_SIZE 16u
#define FLUSH_MS 50u

enum serial_register {
    REG_DATA = 0, /* RBR, THR; divisor low with DLAB */
    REG_IER = 1,  /* divisor high with DLAB */
    REG_IIR = 2,  /* FCR when written */
    REG_LCR = 3,
    REG_MCR = 4,
    REG_LSR = 5,
    REG_MSR = 6,
    REG_SCR = 7,
};

#define IER_RECEIVED 0x01u
#define IER_TRANSMITTER 0x02u
#define IER_LINE_STATUS 0x04u
#define IER_MODEM_STATUS 0x08u
#define IER_ALL 0x0fu

/* The reasons that IIR reports, most urgent first. */
#define IIR_LINE_STATUS 0x06u
#define IIR_RECEIVED 0x04u
#define IIR_RECEIVE_TIMEOUT 0x0cu
#define IIR_TRANSMITTER 0x02u
#define IIR_MODEM_STATUS 0x00u
#define IIR_NONE 0x01u
#define IIR_FIFO_ON 0xc0u

#define FCR_ENABLE 0x01u
#define FCR_CLEAR_RECEIVER 0x02u
#define FCR_KEPT 0xc9u /* enable, DMA mode, trigger level; the rest are commands */

#define LCR_DLAB 0x80u

#define MCR_DTR 0x01u
#define MCR_RTS 0x02u
#define MCR_OUT1 0x04u
#define MCR_OUT2 0x08u /* lets the interrupt through on a PC */
#define MCR_LOOP 0x10u
#define MCR_ALL 0x1fu

#define LSR_DATA_READY 0x01u
#define LSR_OVERRUN 0x02u
#define LSR_TRANSMIT_EMPTY 0x60u /* holding register and shifter */

#define MSR_DELTA_CTS 0x01u
#define MSR_DELTA_DSR 0x02u
#define MSR_RING_ENDED 0x04u
#define MSR_DELTA_DCD 0x08u
#define MSR_CTS 0x10u
#define MSR_DSR 0x20u
#define MSR_RI 0x40u
#define MSR_DCD 0x80u

/* The port's registers: all of its state, and what a snapshot holds. */
struct serial_state {
    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    bool overrun;            /* LSR */
    uint8_t modem_delta;     /* MSR, low half */
    bool sent;               /* the transmitter became empty and no read of IIR has told so yet */
    uint8_t fifo[FIFO_SIZE]; /* received bytes, oldest first */
    uint8_t fifo_count;
};

static const struct stasis_field serial_fields[] = {
    STASIS_F(struct serial_state, ier, U8, .show = STASIS_SHOW_HEX, .max = IER_ALL),
    STASIS_F(struct serial_state, fcr, U8, .show = STASIS_SHOW_HEX),
    STASIS_F(struct serial_state, lcr, U8, .show = STASIS_SHOW_HEX),
    STASIS_F(struct serial_state, mcr, U8, .show = STASIS_SHOW_HEX, .max = MCR_ALL),
    STASIS_F(struct serial_state, scr, U8, .show = STASIS_SHOW_HEX),
    STASIS_F(struct serial_state, dll, U8, .show = STASIS_SHOW_HEX),
    STASIS_F(struct serial_state, dlm, U8, .show = STASIS_SHOW_HEX),
    STASIS_F(struct serial_state, overrun, BOOL),
    STASIS_F(struct serial_state, modem_delta, U8, .show = STASIS_SHOW_HEX, .max = 0x0f),
    STASIS_F(struct serial_state, sent, BOOL),
    STASIS_F_ARRAY(struct serial_state, fifo, BYTES),
    STASIS_F(struct serial_state, fifo_count, U8, .max = FIFO_SIZE),
};
static const struct stasis_table serial_table = STASIS_TABLE(struct serial_state, serial_fields);

struct serial {
    struct device device; /* first */
    struct irq_line irq;
    struct console *console;

    /* Below: under lock. It is never held while calling the console, whose thread calls us. */
    pthread_mutex_t lock;
    struct serial_state state;
    bool resting;   /* between quiesce and run: no input is taken */
    bool throttled; /* the console holds bytes that found no room */
};

static struct serial *serial_of(struct device *device)
{
    return (struct serial *)device;
}

/* --- the registers; all under lock ---------------------------------------------------------- */

static unsigned fifo_room(const struct serial_state *state)
{
    const unsigned size = state->fcr & FCR_ENABLE ? FIFO_SIZE : 1;

    return state->fifo_count < size ? size - state->fifo_count : 0;
}

static unsigned trigger_level(const struct serial_state *state)
{
    static const uint8_t levels[] = { 1, 4, 8, 14 };

    return state->fcr & FCR_ENABLE ? levels[state->fcr >> 6] : 1;
}

static uint8_t pending_reason(const struct serial_state *state)
{
    if (state->ier & IER_LINE_STATUS && state->overrun)
        return IIR_LINE_STATUS;
    if (state->ier & IER_RECEIVED && state->fifo_count > 0)
        return state->fifo_count >= trigger_level(state) ? IIR_RECEIVED : IIR_RECEIVE_TIMEOUT;
    if (state->ier & IER_TRANSMITTER && state->sent)
        return IIR_TRANSMITTER;
    if (state->ier & IER_MODEM_STATUS && state->modem_delta)
        return IIR_MODEM_STATUS;
    return IIR_NONE;
}

/* What drives the line: nothing, while OUT2 or loopback keep the port off the bus. */
static uint8_t driving_reason(const struct serial_state *state)
{
    if (!(state->mcr & MCR_OUT2) || state->mcr & MCR_LOOP)
        return IIR_NONE;
    return pending_reason(state);
}

/* `dropped`: the line was low for a moment, whatever the reasons before and after. */
static void send_edge(const struct serial *serial, uint8_t reason_before, bool dropped)
{
    const uint8_t reason = driving_reason(&serial->state);

    if (reason != IIR_NONE && (reason != reason_before || dropped))
        irq_line_pulse(&serial->irq);
}

static void fifo_push(struct serial_state *state, uint8_t byte)
{
    if (fifo_room(state) == 0) {
        state->overrun = true; /* in loopback only: the console waits for room */
        return;
    }
    state->fifo[state->fifo_count++] = byte;
}

static uint8_t fifo_pop(struct serial_state *state)
{
    const uint8_t byte = state->fifo[0];

    if (state->fifo_count == 0)
        return 0;
    state->fifo_count--;
    memmove(state->fifo, state->fifo + 1, state->fifo_count);
    return byte;
}

/* The other end is always ready; in loopback the port sees its own outputs. */
static uint8_t modem_lines(const struct serial_state *state)
{
    uint8_t lines = 0;

    if (!(state->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    if (state->mcr & MCR_RTS)
        lines |= MSR_CTS;
    if (state->mcr & MCR_DTR)
        lines |= MSR_DSR;
    if (state->mcr & MCR_OUT1)
        lines |= MSR_RI;
    if (state->mcr & MCR_OUT2)
        lines |= MSR_DCD;
    return lines;
}

static void write_mcr(struct serial_state *state, uint8_t value)
{
    const uint8_t before = modem_lines(state);
    uint8_t changed;

    state->mcr = value & MCR_ALL;
    changed = before ^ modem_lines(state);
    state->modem_delta |= changed & MSR_CTS ? MSR_DELTA_CTS : 0;
    state->modem_delta |= changed & MSR_DSR ? MSR_DELTA_DSR : 0;
    state->modem_delta |= changed & before & MSR_RI ? MSR_RING_ENDED : 0;
    state->modem_delta |= changed & MSR_DCD ? MSR_DELTA_DCD : 0;
}

static void write_fcr(struct serial_state *state, uint8_t value)
{
    /* Switching the FIFOs on or off empties them. */
    if (value & FCR_CLEAR_RECEIVER || (value ^ state->fcr) & FCR_ENABLE)
        state->fifo_count = 0;
    state->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
}

static void write_ier(struct serial_state *state, uint8_t value)
{
    /* Enabling the interrupt of an empty transmitter makes it pending: drivers probe for that. */
    if (value & IER_TRANSMITTER && !(state->ier & IER_TRANSMITTER))
        state->sent = true;
    state->ier = value & IER_ALL;
}

static uint8_t read_iir(struct serial_state *state)
{
    const uint8_t reason = pending_reason(state);

    if (reason == IIR_TRANSMITTER)
        state->sent = false;
    return state->fcr & FCR_ENABLE ? reason | IIR_FIFO_ON : reason;
}

static uint8_t read_lsr(struct serial_state *state)
{
    const bool overrun = state->overrun;

    state->overrun = false;
    return (uint8_t)(LSR_TRANSMIT_EMPTY | (overrun ? LSR_OVERRUN : 0) |
                     (state->fifo_count > 0 ? LSR_DATA_READY : 0));
}

static uint8_t read_msr(struct serial_state *state)
{
    const uint8_t delta = state->modem_delta;

    state->modem_delta = 0;
    return modem_lines(state) | delta;
}

static uint8_t read_register(struct serial_state *state, enum serial_register reg)
{
    const bool dlab = state->lcr & LCR_DLAB;

    switch (reg) {
    case REG_DATA: return dlab ? state->dll : fifo_pop(state);
    case REG_IER: return dlab ? state->dlm : state->ier;
    case REG_IIR: return read_iir(state);
    case REG_LCR: return state->lcr;
    case REG_MCR: return state->mcr;
    case REG_LSR: return read_lsr(state);
    case REG_MSR: return read_msr(state);
    case REG_SCR: return state->scr;
    default: return 0xff;
    }
}

/* All but THR. */
static void write_register(struct serial_state *state, enum serial_register reg, uint8_t value)
{
    const bool dlab = state->lcr & LCR_DLAB;

    switch (reg) {
    case REG_DATA: state->dll = value; break;
    case REG_IER:
        if (dlab)
            state->dlm = value;
        else
            write_ier(state, value);
        break;
    case REG_IIR: write_fcr(state, value); break;
    case REG_LCR: state->lcr = value; break;
    case REG_MCR: write_mcr(state, value); break;
    case REG_SCR: state->scr = value; break;
    case REG_LSR:
    case REG_MSR:
    default: break; /* read-only */
    }
}

/* --- both ends ------------------------------------------------------------------------------ */

static bool takes_input(const struct serial *serial)
{
    return !serial->resting && !(serial->state.mcr & MCR_LOOP);
}

/* Whether to call the console, after an access that may have made room: not for each single byte. */
static bool should_call_console(struct serial *serial)
{
    const bool call = serial->throttled && takes_input(serial) &&
                      fifo_room(&serial->state) > serial->state.fifo_count;

    if (call)
        serial->throttled = false;
    return call;
}

static uint8_t read_byte(struct serial *serial, enum serial_register reg)
{
    uint8_t value, reason_before;
    bool call;

    pthread_mutex_lock(&serial->lock);
    reason_before = driving_reason(&serial->state);
    value = read_register(&serial->state, reg);
    send_edge(serial, reason_before, false);
    call = should_call_console(serial);
    pthread_mutex_unlock(&serial->lock);
    if (call)
        console_input_ready(serial->console);
    return value;
}

/* A byte into the transmitter; true when it goes out to the console. Under lock. */
static bool transmit(struct serial_state *state, uint8_t byte)
{
    state->sent = true;
    if (!(state->mcr & MCR_LOOP))
        return true;
    fifo_push(state, byte);
    return false;
}

static void write_byte(struct serial *serial, enum serial_register reg, uint8_t value)
{
    bool is_data, out = false, call;
    uint8_t reason_before;

    pthread_mutex_lock(&serial->lock);
    reason_before = driving_reason(&serial->state);
    is_data = reg == REG_DATA && !(serial->state.lcr & LCR_DLAB);
    if (is_data)
        out = transmit(&serial->state, value);
    else
        write_register(&serial->state, reg, value);
    send_edge(serial, reason_before, is_data && serial->state.ier & IER_TRANSMITTER);
    call = should_call_console(serial);
    pthread_mutex_unlock(&serial->lock);
    if (out)
        console_write(serial->console, &value, 1);
    if (call)
        console_input_ready(serial->console);
}

/* Wider accesses are those of neighbouring ports, as on a bus of 8 bits. */
static uint64_t serial_read(struct device *device, uint64_t offset, unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++) {
        const uint8_t byte = read_byte(serial_of(device), (enum serial_register)(offset + i));

        value |= (uint64_t)byte << (8 * i);
    }
    return value;
}

static void serial_write(struct device *device, uint64_t offset, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++)
        write_byte(serial_of(device), (enum serial_register)(offset + i),
                   (uint8_t)(value >> (8 * i)));
}

/* From the console's thread. */
static size_t serial_input(void *arg, const uint8_t *bytes, size_t size)
{
    struct serial *serial = arg;
    size_t taken = 0;
    uint8_t reason_before;

    pthread_mutex_lock(&serial->lock);
    reason_before = driving_reason(&serial->state);
    while (taken < size && takes_input(serial) && fifo_room(&serial->state) > 0)
        fifo_push(&serial->state, bytes[taken++]);
    serial->throttled = taken < size;
    send_edge(serial, reason_before, false);
    pthread_mutex_unlock(&serial->lock);
    return taken;
}

/* --- life and state ------------------------------------------------------------------------- */

static void set_resting(struct serial *serial, bool resting)
{
    pthread_mutex_lock(&serial->lock);
    serial->resting = resting;
    pthread_mutex_unlock(&serial->lock);
}

static int serial_run(struct device *device, struct stasis_error *err)
{
    struct serial *serial = serial_of(device);

    (void)err;
    set_resting(serial, false);
    console_input_ready(serial->console);
    return 0;
}

/* Bytes that the console has read and we have not taken stay with it: they belong to the machine that
 * goes on in this process, not to its copy. What the guest has written goes out before, so that the
 * copy's output continues it even when this process is killed right after the save; but nobody waits
 * long for a terminal that stands still. */
static int serial_quiesce(struct device *device, uint64_t deadline_ns, struct stasis_error *err)
{
    struct serial *serial = serial_of(device);

    (void)deadline_ns;
    (void)err;
    set_resting(serial, true);
    console_flush(serial->console, FLUSH_MS);
    return 0;
}

static int serial_save(struct device *device, struct stasis_machine *machine,
                       struct stasis_error *err)
{
    struct serial *serial = serial_of(device);
    struct serial_state state;

    pthread_mutex_lock(&serial->lock);
    state = serial->state;
    pthread_mutex_unlock(&serial->lock);
    /* Bytes that were read before are nobody's business. */
    memset(state.fifo + state.fifo_count, 0, FIFO_SIZE - state.fifo_count);
    return device_save_state(device, SERIAL_STATE_VERSION, &serial_table, &state, machine, err);
}

static int serial_load(struct device *device, const struct stasis_machine *machine,
                       struct stasis_error *err)
{
    struct serial *serial = serial_of(device);
    struct serial_state state;
    const int r =
        device_load_state(device, SERIAL_STATE_VERSION, &serial_table, machine, &state, err);

    if (r < 0)
        return r;
    if (state.fifo_count > FIFO_SIZE || (state.fcr & ~FCR_KEPT) != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "serial port: fcr 0x%x with %u bytes received is not possible",
                           state.fcr, state.fifo_count);
    pthread_mutex_lock(&serial->lock);
    serial->state = state;
    pthread_mutex_unlock(&serial->lock);
    return 0;
}

static void serial_free(struct device *device)
{
    struct serial *serial = serial_of(device);

    console_set_input(serial->console, NULL, NULL); /* its thread is out of serial_input() now */
    pthread_mutex_destroy(&serial->lock);
    free(serial);
}

static const struct device_ops serial_ops = {
    .kind = "serial",
    .read = serial_read,
    .write = serial_write,
    .run = serial_run,
    .quiesce = serial_quiesce,
    .save = serial_save,
    .load = serial_load,
    .free = serial_free,
};

int serial_new(const struct irq_line *irq, struct console *console, struct device **ret_device,
               struct stasis_error *err)
{
    struct serial *serial = calloc(1, sizeof(*serial));

    if (!serial)
        return stasis_fail_memory(err, "the serial port");
    serial->device.ops = &serial_ops;
    snprintf(serial->device.id, sizeof(serial->device.id), "com1");
    serial->irq = *irq;
    serial->console = console;
    serial->resting = true;
    /* As firmware leaves the port of a PC: 9600 baud, interrupt let through. */
    serial->state.mcr = MCR_OUT2;
    serial->state.dll = 12;
    pthread_mutex_init(&serial->lock, NULL);
    console_set_input(console, serial_input, serial);
    *ret_device = &serial->device;
    return 0;
}
