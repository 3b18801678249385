/*
 * options.h - the command line, parsed. README.md says what each option means.
 */
#ifndef GUEST_OPTIONS_H
#define GUEST_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "interrupts.h"
#include "power.h"

struct options {
    uint32_t cpus;
    uint64_t seed;

    uint64_t mem_size;  /* UINT64_MAX: all there is */
    uint64_t fill_size; /* UINT64_MAX: as much as mem_size */
    uint32_t fill_run, fill_step, fill_words;
    uint32_t dirty_pages, zero_pages;
    bool place_linear;
    bool check_full;
    uint32_t check_pages;

    uint32_t tick_ms, period_ms;
    uint64_t lapic_hz;
    enum timer_mode timer;
    uint32_t stop_ms, stuck_ms, lost_ms;

    uint32_t disk_writes, disk_reads;
    uint64_t disk_ring;
    uint32_t rng_every;

    uint64_t exit_count; /* 0: never */
    enum power_end exit_by;
};

/* Unknown words are ignored; a known option with a value that makes no sense is a BAD line. */
void options_parse(const char *command_line, struct options *ret_options);

#endif
