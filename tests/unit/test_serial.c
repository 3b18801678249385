/* Goal:   a driver written for a 16550A works, gets an edge for every reason to look, and no byte is
 *         lost or doubled between console and guest, a save in the middle included.
 * Method: the console is the test's own (the archive's is not linked): it records what is written, and
 *         offers input when it is called. Registers are driven one by one, and by a small model of the
 *         interrupt handler of Linux's 8250 driver. */
#include "device_fixture.h"

#include <stdlib.h>
#include <string.h>

#include "microvm/console.h"

#define GSI 4u

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };

/* --- a console ------------------------------------------------------------------------------ */

struct console {
    uint8_t output[4096];
    size_t output_size;
    console_input_fn *input;
    void *input_arg;
    unsigned ready_count; /* calls of console_input_ready() */
    unsigned flush_count;
};

void console_write(struct console *console, const uint8_t *bytes, size_t size)
{
    assert_true(console->output_size + size <= sizeof(console->output));
    memcpy(console->output + console->output_size, bytes, size);
    console->output_size += size;
}

void console_set_input(struct console *console, console_input_fn *input, void *arg)
{
    console->input = input;
    console->input_arg = arg;
}

void console_input_ready(struct console *console)
{
    console->ready_count++;
}

void console_flush(struct console *console, unsigned timeout_ms)
{
    assert_true(timeout_ms <= 100); /* the guest stands still meanwhile */
    console->flush_count++;
}

/* --- bench ---------------------------------------------------------------------------------- */

struct bench {
    struct console console;
    struct device *device;
};

static struct device *new_serial(struct bench *bench)
{
    const struct irq_line irq = { .vm_fd = -1, .gsi = GSI };
    struct stasis_error err = { 0 };
    struct device *device;

    assert_stasis_ok(serial_new(&irq, &bench->console, &device, &err), &err);
    return device;
}

static void run(struct bench *bench)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(bench->device->ops->run(bench->device, &err), &err);
}

static void quiesce(struct bench *bench)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(bench->device->ops->quiesce(bench->device, 0, &err), &err);
}

static int bench_new(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));

    if (!bench)
        return -1;
    bench->device = new_serial(bench);
    run(bench);
    bench->console.ready_count = 0;
    irq_pulses(GSI);
    *state = bench;
    return 0;
}

static int bench_free(void **state)
{
    struct bench *bench = *state;

    bench->device->ops->free(bench->device);
    assert_null(bench->console.input);
    free(bench);
    return 0;
}

static uint8_t in(struct bench *bench, unsigned reg)
{
    return (uint8_t)bench->device->ops->read(bench->device, reg, 1);
}

static void out(struct bench *bench, unsigned reg, uint8_t value)
{
    bench->device->ops->write(bench->device, reg, 1, value);
}

static size_t type(struct bench *bench, const char *text)
{
    return bench->console.input(bench->console.input_arg, (const uint8_t *)text, strlen(text));
}

static unsigned edges(void)
{
    return irq_pulses(GSI);
}

/* --- registers ------------------------------------------------------------------------------ */

static void bytes_written_go_out_in_order(void **state)
{
    struct bench *bench = *state;

    for (const char *text = "hello\r\n"; *text; text++) {
        assert_int_equal(in(bench, LSR) & 0x60, 0x60);
        out(bench, DATA, (uint8_t)*text);
    }
    assert_int_equal(bench->console.output_size, 7);
    assert_memory_equal(bench->console.output, "hello\r\n", 7);
    assert_int_equal(edges(), 0);
}

static void the_divisor_is_behind_dlab_and_sends_nothing(void **state)
{
    struct bench *bench = *state;

    out(bench, LCR, 0x83);
    out(bench, DATA, 0x01);
    out(bench, IER, 0x02);
    assert_int_equal(in(bench, DATA), 0x01);
    assert_int_equal(in(bench, IER), 0x02);
    assert_int_equal(in(bench, LCR), 0x83);
    out(bench, LCR, 0x03);
    assert_int_equal(in(bench, IER), 0x00);
    assert_int_equal(bench->console.output_size, 0);
}

/* What Linux's 8250 driver looks at to tell the kinds of UART apart. */
static void it_is_recognised_as_a_16550a(void **state)
{
    struct bench *bench = *state;

    out(bench, IER, 0xff);
    assert_int_equal(in(bench, IER), 0x0f);
    out(bench, IER, 0);
    out(bench, SCR, 0xa5);
    assert_int_equal(in(bench, SCR), 0xa5);
    out(bench, SCR, 0x5a);
    assert_int_equal(in(bench, SCR), 0x5a);
    assert_int_equal(in(bench, IIR) >> 6, 0);
    out(bench, IIR, 0x01);
    assert_int_equal(in(bench, IIR) >> 6, 3);
    out(bench, IIR, 0x00);
    assert_int_equal(in(bench, IIR) >> 6, 0);
    out(bench, LSR, 0xff); /* read-only */
    out(bench, MSR, 0xff);
    assert_int_equal(in(bench, LSR), 0x60);
    assert_int_equal(in(bench, MSR), 0xb0);
}

static void wide_accesses_are_those_of_neighbouring_ports(void **state)
{
    struct bench *bench = *state;

    bench->device->ops->write(bench->device, LCR, 2, 0x0803);
    assert_int_equal(in(bench, LCR), 0x03);
    assert_int_equal(in(bench, MCR), 0x08);
    assert_int_equal(bench->device->ops->read(bench->device, LCR, 4), 0xb0600803);
}

static void loopback_sends_to_itself_and_not_out(void **state)
{
    struct bench *bench = *state;

    out(bench, IIR, 0x07);
    out(bench, IER, 0x01);
    out(bench, MCR, 0x18);
    out(bench, DATA, 'x');
    out(bench, DATA, 'y');
    assert_int_equal(bench->console.output_size, 0);
    assert_int_equal(edges(), 0); /* the port is off the bus */
    assert_int_equal(type(bench, "z"), 0);
    assert_int_equal(in(bench, LSR), 0x61);
    assert_int_equal(in(bench, DATA), 'x');
    assert_int_equal(in(bench, DATA), 'y');
    assert_int_equal(in(bench, LSR), 0x60);
    out(bench, MCR, 0x08);
    assert_int_equal(bench->console.ready_count, 1); /* now it takes input again */
    assert_int_equal(type(bench, "z"), 1);
}

static void loopback_shows_the_modem_outputs_as_inputs(void **state)
{
    struct bench *bench = *state;
    static const struct {
        uint8_t mcr, msr;
    } lines[] = { { 0x10, 0x00 }, { 0x11, 0x20 }, { 0x12, 0x10 }, { 0x14, 0x40 },
                  { 0x18, 0x80 }, { 0x1a, 0x90 }, { 0x1f, 0xf0 }, { 0x0f, 0xb0 } };

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        out(bench, MCR, lines[i].mcr);
        assert_int_equal(in(bench, MSR) & 0xf0, lines[i].msr);
        assert_int_equal(in(bench, MSR) & 0x0f, 0); /* told once */
    }
    out(bench, MCR, 0x10);
    in(bench, MSR);
    out(bench, MCR, 0x13);
    assert_int_equal(in(bench, MSR), 0x33);
    out(bench, MCR, 0x14);
    assert_int_equal(in(bench, MSR), 0x43); /* a ring that begins is not told */
    out(bench, MCR, 0x10);
    assert_int_equal(in(bench, MSR), 0x04); /* one that ends is */
}

static void too_much_in_loopback_is_an_overrun_that_is_told_once(void **state)
{
    struct bench *bench = *state;

    out(bench, IIR, 0x01);
    out(bench, MCR, 0x10);
    for (uint8_t i = 0; i < 17; i++)
        out(bench, DATA, i);
    assert_int_equal(in(bench, LSR), 0x63);
    assert_int_equal(in(bench, LSR), 0x61);
    for (uint8_t i = 0; i < 16; i++)
        assert_int_equal(in(bench, DATA), i);
    assert_int_equal(in(bench, DATA), 0);
}

/* --- receiving ------------------------------------------------------------------------------ */

static void the_receiver_takes_16_bytes_and_holds_the_console_back(void **state)
{
    struct bench *bench = *state;
    const char *text = "0123456789abcdefghij";

    out(bench, IIR, 0x01);
    assert_int_equal(type(bench, text), 16);
    assert_int_equal(type(bench, text + 16), 0);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(in(bench, DATA), text[i]);
    assert_int_equal(bench->console.ready_count, 0);
    assert_int_equal(in(bench, DATA), text[8]);
    assert_int_equal(bench->console.ready_count, 1); /* once, when more than half is free */
    assert_int_equal(in(bench, DATA), text[9]);
    assert_int_equal(bench->console.ready_count, 1);
    assert_int_equal(type(bench, text + 16), 4);
    for (unsigned i = 10; i < 20; i++)
        assert_int_equal(in(bench, DATA), text[i]);
    assert_int_equal(in(bench, LSR), 0x60);
    assert_int_equal(bench->console.ready_count, 1); /* nothing is held back any more */
}

static void without_fifos_one_byte_is_taken_at_a_time(void **state)
{
    struct bench *bench = *state;

    out(bench, IER, 0x01);
    assert_int_equal(type(bench, "ab"), 1);
    assert_int_equal(edges(), 1);
    assert_int_equal(in(bench, IIR), 0x04);
    assert_int_equal(in(bench, DATA), 'a');
    assert_int_equal(bench->console.ready_count, 1);
    assert_int_equal(type(bench, "b"), 1);
    assert_int_equal(edges(), 1);
    assert_int_equal(in(bench, DATA), 'b');
    assert_int_equal(in(bench, IIR), 0x01);
}

static void clearing_and_switching_the_fifos_empties_them(void **state)
{
    struct bench *bench = *state;
    static const uint8_t commands[] = { 0x03, 0x00, 0x01 };

    out(bench, IIR, 0x01);
    for (size_t i = 0; i < sizeof(commands); i++) {
        assert_true(type(bench, "abc") > 0);
        out(bench, IIR, commands[i]);
        assert_int_equal(in(bench, LSR), 0x60);
    }
    assert_int_equal(type(bench, "abc"), 3);
    out(bench, IIR, 0x41); /* another trigger level: nothing is lost */
    assert_int_equal(in(bench, DATA), 'a');
}

static void below_the_trigger_level_data_is_told_as_a_timeout(void **state)
{
    static const struct {
        uint8_t fcr;
        unsigned level;
    } triggers[] = { { 0x01, 1 }, { 0x41, 4 }, { 0x81, 8 }, { 0xc1, 14 } };
    struct bench *bench = *state;

    out(bench, IER, 0x01);
    for (size_t i = 0; i < sizeof(triggers) / sizeof(triggers[0]); i++) {
        out(bench, IIR, triggers[i].fcr | 0x02);
        for (unsigned count = 1; count <= 16; count++) {
            assert_int_equal(type(bench, "x"), 1);
            assert_int_equal(in(bench, IIR), count >= triggers[i].level ? 0xc4 : 0xcc);
        }
    }
}

/* --- edges ---------------------------------------------------------------------------------- */

static void bytes_received_are_told_by_one_edge_until_they_are_read(void **state)
{
    struct bench *bench = *state;

    out(bench, IIR, 0x01);
    assert_int_equal(type(bench, "a"), 1);
    assert_int_equal(edges(), 0); /* not enabled */
    out(bench, IER, 0x01);
    assert_int_equal(edges(), 1);
    assert_int_equal(type(bench, "bc"), 2);
    assert_int_equal(edges(), 0); /* the line is up already */
    for (unsigned i = 0; i < 3; i++)
        in(bench, DATA);
    assert_int_equal(edges(), 0);
    assert_int_equal(type(bench, "d"), 1);
    assert_int_equal(edges(), 1);
}

static void an_empty_transmitter_is_told_when_enabled_and_after_each_byte(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(in(bench, IIR), 0x01);
    out(bench, IER, 0x02);
    assert_int_equal(edges(), 1);
    assert_int_equal(in(bench, IIR), 0x02);
    assert_int_equal(in(bench, IIR), 0x01); /* reading it was the acknowledgement */
    out(bench, DATA, 'a');
    assert_int_equal(edges(), 1);
    out(bench, DATA, 'b'); /* a handler that does not look at IIR gets its edge, too */
    assert_int_equal(edges(), 1);
    assert_int_equal(in(bench, IIR), 0x02);
    out(bench, IER, 0x00);
    out(bench, IER, 0x02); /* Linux's test for a broken UART: it must come again */
    assert_int_equal(edges(), 1);
    assert_int_equal(in(bench, IIR), 0x02);
}

static void the_next_reason_gets_its_own_edge_when_one_is_served(void **state)
{
    struct bench *bench = *state;

    out(bench, IIR, 0x01);
    out(bench, MCR, 0x18);
    out(bench, IER, 0x0f);
    for (uint8_t i = 0; i < 17; i++)
        out(bench, DATA, i); /* overrun, data, transmitter, modem lines */
    assert_int_equal(edges(), 0);
    out(bench, MCR, 0x08);
    assert_int_equal(edges(), 1);
    assert_int_equal(in(bench, IIR) & 0x0f, 0x06);
    in(bench, LSR);
    assert_int_equal(edges(), 1);
    assert_int_equal(in(bench, IIR) & 0x0f, 0x04);
    for (unsigned i = 0; i < 16; i++)
        in(bench, DATA);
    assert_int_equal(edges(), 1);
    assert_int_equal(in(bench, IIR) & 0x0f, 0x02);
    assert_int_equal(edges(), 1);
    assert_int_equal(in(bench, IIR) & 0x0f, 0x00);
    in(bench, MSR);
    assert_int_equal(edges(), 0);
    assert_int_equal(in(bench, IIR) & 0x0f, 0x01);
}

static void out2_lets_the_interrupt_through(void **state)
{
    struct bench *bench = *state;

    out(bench, MCR, 0x00);
    out(bench, IER, 0x01);
    assert_int_equal(type(bench, "a"), 1);
    assert_int_equal(in(bench, IIR), 0x04);
    assert_int_equal(edges(), 0);
    out(bench, MCR, 0x08);
    assert_int_equal(edges(), 1);
}

/* A handler as Linux's: serve what IIR tells until it tells of nothing. */
static size_t handle_interrupt(struct bench *bench, char *received, size_t at, const char **to_send)
{
    uint8_t iir;

    while (!((iir = in(bench, IIR)) & 1)) {
        const uint8_t lsr = in(bench, LSR);

        if (lsr & 1) {
            do
                received[at++] = (char)in(bench, DATA);
            while (in(bench, LSR) & 1);
        }
        in(bench, MSR);
        for (unsigned i = 0; i < 16 && lsr & 0x20 && **to_send; i++)
            out(bench, DATA, (uint8_t) * (*to_send)++);
        if (!**to_send)
            out(bench, IER, 0x05);
    }
    return at;
}

/* The guest does nothing but sleep until an edge comes: one that is missing stops everything. */
static void a_driver_that_sleeps_until_an_edge_loses_nothing(void **state)
{
    struct bench *bench = *state;
    char typed[600], received[700], sent[1200];
    const char *to_send = sent;
    struct dice dice = { .state = 31 };
    size_t typed_at = 0, received_count = 0;

    for (size_t i = 0; i < sizeof(typed) - 1; i++)
        typed[i] = (char)('a' + dice_below(&dice, 26));
    for (size_t i = 0; i < sizeof(sent) - 1; i++)
        sent[i] = (char)('A' + dice_below(&dice, 26));
    typed[sizeof(typed) - 1] = sent[sizeof(sent) - 1] = '\0';

    out(bench, IIR, 0x81);
    out(bench, IER, 0x07);
    for (unsigned step = 0; step < 5000 && (typed[typed_at] || *to_send); step++) {
        char some[40] = "";

        strncat(some, typed + typed_at, (size_t)dice_below(&dice, sizeof(some)));
        typed_at += type(bench, some);
        if (edges())
            received_count = handle_interrupt(bench, received, received_count, &to_send);
    }
    assert_int_equal(received_count, sizeof(typed) - 1);
    assert_memory_equal(received, typed, sizeof(typed) - 1);
    assert_int_equal(bench->console.output_size, sizeof(sent) - 1);
    assert_memory_equal(bench->console.output, sent, sizeof(sent) - 1);
}

/* --- rest and state ------------------------------------------------------------------------- */

static void at_rest_no_input_is_taken(void **state)
{
    struct bench *bench = *state;

    out(bench, IIR, 0x01);
    quiesce(bench);
    assert_int_equal(type(bench, "abc"), 0);
    run(bench);
    assert_int_equal(bench->console.ready_count, 1);
    assert_int_equal(type(bench, "abc"), 3);
}

static void output_goes_out_before_a_save(void **state)
{
    struct bench *bench = *state;

    out(bench, DATA, 'x');
    assert_int_equal(bench->console.flush_count, 0);
    quiesce(bench);
    assert_int_equal(bench->console.flush_count, 1);
}

static void a_new_port_takes_input_only_once_it_runs(void **state)
{
    struct bench *bench = *state;

    bench->device->ops->free(bench->device);
    bench->device = new_serial(bench);
    assert_int_equal(type(bench, "a"), 0);
    run(bench);
    assert_int_equal(type(bench, "a"), 1);
}

static void move_to_another(struct bench *bench)
{
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };

    quiesce(bench);
    assert_stasis_ok(bench->device->ops->save(bench->device, &machine, &err), &err);
    bench->device->ops->free(bench->device);
    bench->device = new_serial(bench);
    assert_stasis_ok(bench->device->ops->load(bench->device, &machine, &err), &err);
    stasis_machine_release(&machine);
    run(bench);
}

static void all_registers_and_bytes_survive_a_save(void **state)
{
    struct bench *bench = *state;

    out(bench, LCR, 0x83);
    out(bench, DATA, 0x12);
    out(bench, IER, 0x34);
    out(bench, LCR, 0x07);
    out(bench, SCR, 0x99);
    out(bench, IIR, 0x81);
    out(bench, MCR, 0x19);
    for (uint8_t i = 0; i < 17; i++)
        out(bench, DATA, (uint8_t)(0x40 + i));
    out(bench, IER, 0x0d);
    edges();
    move_to_another(bench);

    assert_int_equal(edges(), 0); /* what was sent is in the interrupt controller */
    assert_int_equal(in(bench, IER), 0x0d);
    assert_int_equal(in(bench, SCR), 0x99);
    assert_int_equal(in(bench, MCR), 0x19);
    assert_int_equal(in(bench, IIR), 0xc6);
    assert_int_equal(in(bench, LSR), 0x63);
    assert_int_equal(in(bench, IIR), 0xc4);
    for (uint8_t i = 0; i < 16; i++)
        assert_int_equal(in(bench, DATA), 0x40 + i);
    assert_int_equal(in(bench, IIR), 0xc0);
    assert_int_equal(in(bench, MSR), 0xa1);
    out(bench, IER, 0x0f);
    assert_int_equal(in(bench, IIR), 0xc2);
    out(bench, LCR, 0x87);
    assert_int_equal(in(bench, DATA), 0x12);
    assert_int_equal(in(bench, IER), 0x34);
}

static void saves_at_random_lose_and_double_no_byte(void **state)
{
    struct bench *bench = *state;
    char typed[400], received[500], sent[800];
    const char *to_send = sent;
    struct dice dice = { .state = 32 };
    size_t typed_at = 0, received_count = 0;

    memset(typed, 0, sizeof(typed));
    memset(sent, 0, sizeof(sent));
    for (size_t i = 0; i < sizeof(typed) - 1; i++)
        typed[i] = (char)('a' + dice_below(&dice, 26));
    for (size_t i = 0; i < sizeof(sent) - 1; i++)
        sent[i] = (char)('A' + dice_below(&dice, 26));
    out(bench, IIR, 0x01);
    out(bench, IER, 0x07);
    for (unsigned step = 0; step < 5000 && (typed[typed_at] || *to_send); step++) {
        char some[40] = "";
        bool edge = false;

        strncat(some, typed + typed_at, (size_t)dice_below(&dice, sizeof(some)));
        typed_at += type(bench, some);
        edge = edges() > 0;
        if (dice_below(&dice, 3) == 0)
            move_to_another(bench);
        if (edge)
            received_count = handle_interrupt(bench, received, received_count, &to_send);
    }
    assert_int_equal(received_count, sizeof(typed) - 1);
    assert_memory_equal(received, typed, sizeof(typed) - 1);
    assert_int_equal(bench->console.output_size, sizeof(sent) - 1);
    assert_memory_equal(bench->console.output, sent, sizeof(sent) - 1);
}

/* The names of the saved fields, once more: they are a promise to files that exist. */
struct saved_serial {
    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    bool overrun;
    uint8_t modem_delta;
    bool sent;
    uint8_t fifo[16];
    uint8_t fifo_count;
};
static const struct stasis_field saved_fields[] = {
    STASIS_F(struct saved_serial, ier, U8),           STASIS_F(struct saved_serial, fcr, U8),
    STASIS_F(struct saved_serial, lcr, U8),           STASIS_F(struct saved_serial, mcr, U8),
    STASIS_F(struct saved_serial, scr, U8),           STASIS_F(struct saved_serial, dll, U8),
    STASIS_F(struct saved_serial, dlm, U8),           STASIS_F(struct saved_serial, overrun, BOOL),
    STASIS_F(struct saved_serial, modem_delta, U8),   STASIS_F(struct saved_serial, sent, BOOL),
    STASIS_F_ARRAY(struct saved_serial, fifo, BYTES), STASIS_F(struct saved_serial, fifo_count, U8),
};
static const struct stasis_table saved_table = STASIS_TABLE(struct saved_serial, saved_fields);

static void refuse(struct bench *bench, const struct saved_serial *saved)
{
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };

    assert_stasis_ok(
        stasis_machine_add_device(&machine, "serial", "com1", 1, &saved_table, saved, &err), &err);
    assert_stasis_fails(bench->device->ops->load(bench->device, &machine, &err), &err,
                        STASIS_ERR_INVALID_MACHINE);
    stasis_machine_release(&machine);
    assert_int_equal(in(bench, SCR), 0);
}

static void hostile_states_are_refused_and_change_nothing(void **state)
{
    struct bench *bench = *state;

    refuse(bench, &(struct saved_serial){ .scr = 1, .fifo_count = 17 });
    refuse(bench, &(struct saved_serial){ .scr = 1, .fifo_count = 255 });
    refuse(bench, &(struct saved_serial){ .scr = 1, .ier = 0x10 });
    refuse(bench, &(struct saved_serial){ .scr = 1, .mcr = 0x20 });
    refuse(bench, &(struct saved_serial){ .scr = 1, .modem_delta = 0x10 });
    refuse(bench, &(struct saved_serial){ .scr = 1, .fcr = 0x02 });
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, bench_new, bench_free)
    static const struct CMUnitTest tests[] = {
        CASE(bytes_written_go_out_in_order),
        CASE(the_divisor_is_behind_dlab_and_sends_nothing),
        CASE(it_is_recognised_as_a_16550a),
        CASE(wide_accesses_are_those_of_neighbouring_ports),
        CASE(loopback_sends_to_itself_and_not_out),
        CASE(loopback_shows_the_modem_outputs_as_inputs),
        CASE(too_much_in_loopback_is_an_overrun_that_is_told_once),
        CASE(the_receiver_takes_16_bytes_and_holds_the_console_back),
        CASE(without_fifos_one_byte_is_taken_at_a_time),
        CASE(clearing_and_switching_the_fifos_empties_them),
        CASE(below_the_trigger_level_data_is_told_as_a_timeout),
        CASE(bytes_received_are_told_by_one_edge_until_they_are_read),
        CASE(an_empty_transmitter_is_told_when_enabled_and_after_each_byte),
        CASE(the_next_reason_gets_its_own_edge_when_one_is_served),
        CASE(out2_lets_the_interrupt_through),
        CASE(a_driver_that_sleeps_until_an_edge_loses_nothing),
        CASE(at_rest_no_input_is_taken),
        CASE(output_goes_out_before_a_save),
        CASE(a_new_port_takes_input_only_once_it_runs),
        CASE(all_registers_and_bytes_survive_a_save),
        CASE(saves_at_random_lose_and_double_no_byte),
        CASE(hostile_states_are_refused_and_change_nothing),
    };
#undef CASE

    return unit_run(tests);
}
