/*
 * guest.c - the small guest: counts, and checks at every count that nothing was lost.
 *
 * It exists to be saved and restored at any instruction. All it prints is in README.md.
 *
 * A count is opened by vCPU 0 when its LAPIC timer says so: it sends one interrupt to the other
 * processors, every processor does its part once per interrupt, and when the last is done vCPU 0
 * prints the line. So the sums are the same in every run with the same options, wherever it was
 * interrupted in between.
 */
#include "cpu.h"
#include "generator.h"
#include "interrupts.h"
#include "known_values.h"
#include "options.h"
#include "paging.h"
#include "power.h"
#include "print.h"
#include "ram.h"
#include "serial.h"
#include "smp.h"
#include "virtio.h"
#include "virtio_blk.h"
#include "virtio_rng.h"

void guest_main(const uint8_t *boot_params);

static struct options options;
static bool exit_asked;
static enum power_end exit_asked_by;

/* The PIT as the watchdog sees it; the LAPIC timers are in struct cpu. */
static uint64_t pit_seen, pit_seen_at_lapic;
static uint64_t lapic_seen, lapic_seen_at_pit;
static bool pit_reported, lapic_reported;

static uint64_t ticks_of_ms(uint32_t ms)
{
    return (ms + options.tick_ms - 1) / options.tick_ms;
}

static void tsc_check(struct cpu *cpu)
{
    const uint64_t now = rdtsc();

    cpu->tsc_ok = now > cpu->last_tsc;
    if (!cpu->tsc_ok)
        print_bad("cpu %u tsc went from %lu to %lu", cpu->index, cpu->last_tsc, now);
    cpu->last_tsc = now;
}

/* A processor's part of one count. */
static void work_once(void)
{
    struct cpu *cpu = cpu_this();

    tsc_check(cpu);
    known_values_check();
    cpu->memory_ok = generator_count(cpu->counts_done + 1);
    compiler_barrier();
    cpu->counts_done++;
}

static void ap_work(void)
{
    struct cpu *cpu = cpu_this();

    known_values_load(options.seed);
    generator_fill();
    for (;;) {
        interrupts_off();
        if (cpu->work_ipis == cpu->counts_done) {
            interrupts_on_and_halt();
            continue;
        }
        interrupts_on();
        work_once();
    }
}

/* Each of vCPU 0's two timers watches the other. */
static void watch_timers(void)
{
    const uint64_t lapic = cpus[0].lapic_ticks;
    const uint64_t pit = pit_ticks;
    const uint64_t limit = ticks_of_ms(options.stop_ms);

    if (pit != pit_seen) {
        pit_seen = pit;
        pit_seen_at_lapic = lapic;
        pit_reported = false;
    } else if (lapic - pit_seen_at_lapic > limit && !pit_reported) {
        print_bad("pit stopped at %lu", pit);
        pit_reported = true;
    }
    if (lapic != lapic_seen) {
        lapic_seen = lapic;
        lapic_seen_at_pit = pit;
        lapic_reported = false;
    } else if (pit - lapic_seen_at_pit > limit && !lapic_reported) {
        print_bad("lapic stopped at %lu", lapic);
        lapic_reported = true;
    }
}

/* The other processors' LAPIC timers, in vCPU 0's ticks. */
static void watch_ap_timers(void)
{
    const uint64_t now = cpus[0].lapic_ticks;

    for (uint32_t i = 1; i < cpu_count; i++) {
        struct cpu *cpu = &cpus[i];

        if (cpu->lapic_ticks != cpu->ticks_seen) {
            cpu->ticks_seen = cpu->lapic_ticks;
            cpu->ticks_seen_at = now;
            cpu->reported_stopped = false;
        } else if (now - cpu->ticks_seen_at > ticks_of_ms(options.stop_ms) &&
                   !cpu->reported_stopped) {
            print_bad("cpu %u lapic stopped at %lu", i, cpu->lapic_ticks);
            cpu->reported_stopped = true;
        }
    }
}

static bool texts_equal(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

static void obey(const char *text)
{
    exit_asked = true;
    if (texts_equal(text, "exit"))
        exit_asked_by = POWER_OFF;
    else if (texts_equal(text, "reset"))
        exit_asked_by = POWER_RESET;
    else
        exit_asked = false;
}

static void service_console(void)
{
    char text[SERIAL_LINE_SIZE];

    while (serial_take_line(text)) {
        print_line("echo: %s", text);
        if (!exit_asked)
            obey(text);
    }
}

/* Sleeps until the next interrupt of any kind. The caller has switched interrupts off first. */
static void sleep_once(void)
{
    interrupts_on_and_halt();
    watch_timers();
    watch_ap_timers();
    service_console();
}

static void wait_for_tick(uint64_t tick)
{
    for (;;) {
        interrupts_off();
        if (cpus[0].lapic_ticks >= tick || exit_asked)
            break;
        sleep_once();
    }
    interrupts_on();
}

static bool others_done(uint64_t count)
{
    for (uint32_t i = 1; i < cpu_count; i++) {
        if (cpus[i].counts_done < count)
            return false;
    }
    return true;
}

static void report_stuck(uint64_t count)
{
    for (uint32_t i = 1; i < cpu_count; i++) {
        if (cpus[i].counts_done >= count || cpus[i].reported_stuck)
            continue;
        print_bad("cpu %u stuck at count %lu, ipis %lu of %lu", i, cpus[i].counts_done,
                  cpus[i].work_ipis, count);
        cpus[i].reported_stuck = true;
    }
}

static void wait_for_others(uint64_t count)
{
    const uint64_t start = cpus[0].lapic_ticks;

    for (;;) {
        interrupts_off();
        if (others_done(count))
            break;
        sleep_once();
        if (cpus[0].lapic_ticks - start > ticks_of_ms(options.stuck_ms))
            report_stuck(count);
    }
    interrupts_on();
}

static bool ipis_ok(uint64_t count)
{
    bool ok = true;

    for (uint32_t i = 1; i < cpu_count; i++) {
        if (cpus[i].work_ipis == count)
            continue;
        print_bad("cpu %u ipis %lu want %lu", i, cpus[i].work_ipis, count);
        ok = false;
    }
    return ok;
}

static const char *verdict(bool ok)
{
    return ok ? "ok" : "BAD";
}

static void print_count(uint64_t count, bool ipi_ok, bool disk_ok, bool rng_ok)
{
    bool memory_ok = true, sse_ok = true, x87_ok = true, msr_ok = true, dr_ok = true, tsc_ok = true;
    struct line line;

    for (uint32_t i = 0; i < cpu_count; i++) {
        memory_ok &= cpus[i].memory_ok;
        sse_ok &= cpus[i].sse_ok;
        x87_ok &= cpus[i].x87_ok;
        msr_ok &= cpus[i].msr_ok;
        dr_ok &= cpus[i].dr_ok;
        tsc_ok &= cpus[i].tsc_ok;
    }
    line.length = 0;
    line_add(&line, "count %lu sum %016lx %s cpus %u sse %s x87 %s msr %s dr %s", count,
             generator_sum(), verdict(memory_ok), cpu_count, verdict(sse_ok), verdict(x87_ok),
             verdict(msr_ok), verdict(dr_ok));
    line_add(&line, " lapic %lu pit %lu tsc %s", cpus[0].lapic_ticks, pit_ticks, verdict(tsc_ok));
    if (cpu_count > 1)
        line_add(&line, " ipi %s", verdict(ipi_ok));
    if (disk_count())
        line_add(&line, " disk %lu %s flight %u", disk_requests_done(), verdict(disk_ok),
                 disk_requests_in_flight());
    if (rng_present())
        line_add(&line, " rng %lu %s last %016lx", rng_requests_done(), verdict(rng_ok),
                 rng_last_word());
    line_print(&line);
}

static void count_once(uint64_t count)
{
    bool disk_ok, rng_ok = true;

    if (cpu_count > 1)
        lapic_send_work_to_others();
    disk_ok = disk_step(count); /* posted before the work, so that it runs meanwhile */
    if (rng_present())
        rng_ok = rng_step(count);
    work_once();
    wait_for_others(count);
    print_count(count, ipis_ok(count), disk_ok, rng_ok);
    service_console();
    watch_timers();
    watch_ap_timers();
}

static void finish(uint64_t count)
{
    static const char *const names[] = {
        [POWER_OFF] = "poweroff",
        [POWER_RESET] = "reset",
        [POWER_TRIPLE_FAULT] = "triple",
        [POWER_HALT] = "halt",
    };
    const enum power_end end = exit_asked ? exit_asked_by : options.exit_by;

    if (!disk_drain())
        print_bad("disk requests lost");
    print_line("stasis-guest exit count %lu bad %lu by %s", count, print_bad_count(), names[end]);
    power_end(end);
}

static void find_devices(void)
{
    for (uint32_t slot = 0; slot < VIRTIO_SLOTS; slot++) {
        struct virtio_device device = { .slot = slot };

        if (!virtio_probe(slot, &device))
            continue;
        if (device.id == VIRTIO_ID_BLOCK)
            (void)disk_add(&device, &options);
        else if (device.id == VIRTIO_ID_ENTROPY && !rng_present())
            (void)rng_add(&device, &options);
    }
}

static void boot(const uint8_t *boot_params)
{
    serial_init();
    ram_init(boot_params);
    interrupts_init_cpu(); /* first of all, so that a fault is told */
    paging_init();
    smp_adopt_cpu(0);
    interrupts_init();
    options_parse(ram_command_line(), &options);
    interrupts_on();

    if (!timers_init(options.tick_ms, options.timer, options.lapic_hz)) {
        print_bad("pit does not tick");
        power_end(POWER_OFF);
    }
    known_values_load(options.seed);
    find_devices();
}

static void run(void)
{
    uint64_t next_tick, count = 0;

    timers_start_cpu();
    generator_fill();
    serial_input_start();
    print_line("stasis-guest ready cpus=%u mem=%lu fill=%lu dirty=%u zero=%u seed=%lu msrs=%u "
               "disks=%u read-only=%u rng=%u",
               cpu_count, generator_mem_size(), generator_fill_size(), options.dirty_pages,
               options.zero_pages, options.seed, known_values_msr_count(), disk_count(),
               disk_read_only_count(), rng_present());

    next_tick = cpus[0].lapic_ticks;
    for (;;) {
        next_tick += ticks_of_ms(options.period_ms);
        if (next_tick < cpus[0].lapic_ticks)
            next_tick = cpus[0].lapic_ticks; /* too slow for the period: no catching up */
        wait_for_tick(next_tick);
        if (exit_asked || (options.exit_count && count >= options.exit_count))
            finish(count);
        count++;
        count_once(count);
    }
}

void guest_main(const uint8_t *boot_params)
{
    boot(boot_params);
    /* The region is taken last: it may be all the RAM that is left. */
    smp_prepare(options.cpus);
    if (!generator_init(&options))
        power_end(POWER_OFF);
    if (!smp_start(options.cpus, ap_work))
        power_end(POWER_OFF);
    run();
}
