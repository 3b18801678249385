/* microvm.h - one virtual machine, from its configuration to its end.
 *
 * This is all that the control socket and the command line see of the microVM. A microvm goes through
 *
 *     NOT_STARTED --start--> RUNNING <--pause/resume--> PAUSED        any --> STOPPED
 *     NOT_STARTED --load---> PAUSED (or RUNNING at once)
 *
 * Every function may be called from any thread; each takes the microvm's lock. While one action is
 * carried out, another fails with STASIS_ERR_BUSY. An action that does not fit the state fails with
 * STASIS_ERR_WRONG_STATE and changes nothing.
 *
 * A save has two parts. In the first the guest stands still, and all else is refused as busy. In the
 * second, when what was taken is hashed and written, only another save is: the guest may be paused and
 * resumed. When the guest ends or resets meanwhile, the save is completed first, for it is of a guest that
 * was still there; microvm_stop() cancels it. */
#ifndef STASIS_MICROVM_MICROVM_H
#define STASIS_MICROVM_MICROVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>
#include <stasis/snapshot.h>

#define MICROVM_VCPU_MAX 32
#define MICROVM_MEMORY_MIN (UINT64_C(1) << 20)  /* bytes */
#define MICROVM_MEMORY_MAX (UINT64_C(64) << 30) /* bytes */
#define MICROVM_DRIVE_MAX 7                     /* plus one slot for the entropy device */
#define MICROVM_ID_SIZE 64                      /* bytes of an id, with its NUL: [A-Za-z0-9_-]+ */
#define MICROVM_CMDLINE_SIZE 2048               /* bytes, with the NUL */
#define MICROVM_QUIESCE_MS 5000                 /* default time limit for pause */

enum microvm_state {
    MICROVM_NOT_STARTED,
    MICROVM_RUNNING,
    MICROVM_PAUSED,
    MICROVM_STOPPED,
};

/* Why a microvm came to its end. */
enum microvm_exit {
    MICROVM_EXIT_POWER_OFF = 1, /* the guest switched itself off (ACPI S5) */
    MICROVM_EXIT_RESET,         /* the guest asked for a reset and resets end the run */
    MICROVM_EXIT_STOPPED,       /* microvm_stop() */
    MICROVM_EXIT_CRASHED,       /* triple fault, KVM internal error, failed entry: see the error */
};

/* What guest memory is made of on the host. */
enum microvm_pages {
    MICROVM_PAGES_SMALL = 0, /* the host's usual pages */
    MICROVM_PAGES_THP,       /* the kernel is asked to use large ones where it can */
    MICROVM_PAGES_2M,        /* from the host's pool of 2 MiB pages, all of them at once */
};

struct microvm_machine_config {
    uint32_t vcpu_count;  /* 1..MICROVM_VCPU_MAX */
    uint64_t memory_size; /* bytes, multiple of STASIS_PAGE_SIZE, MICROVM_MEMORY_MIN..MAX */
    /* Of this run alone: snapshots do not keep them. */
    enum microvm_pages pages; /* MICROVM_PAGES_2M: memory_size is whole pages of these */
    bool track_dirty; /* watch what changes, for diffs; costs a little at each first write */
};

struct microvm_boot_source {
    const char *kernel_path; /* bzImage, ELF vmlinux with a PVH note, or a flat guest */
    const char *initrd_path; /* NULL: none */
    const char *cmdline;     /* NULL: the default of the microvm */
};

struct microvm_drive {
    const char *id;
    const char *path;
    bool read_only;
    /* Adds "root=/dev/vdX ro" or "rw" to the kernel's command line; one drive at most. */
    bool is_root;
};

struct microvm_options {
    const char *id;     /* instance id; NULL: "anonymous-instance" */
    const char *serial; /* "stdio", "none", "file:PATH", "socket:PATH" (listens); NULL: "stdio" */
    uint32_t quiesce_timeout_ms; /* 0: MICROVM_QUIESCE_MS */
    bool no_seccomp;
    bool exit_on_reset; /* a guest's reset ends the run instead of booting again */
};

struct microvm_drive_override {
    const char *id;
    const char *path;
};

struct microvm_load_options {
    const struct microvm_drive_override *drives; /* disks found elsewhere than at the save */
    size_t drive_count;
    bool resume;              /* run at once */
    bool verify;              /* check every block of memory first */
    bool clock_stopped;       /* guest clocks go on from the save instead of jumping to now */
    enum microvm_pages pages; /* MICROVM_PAGES_2M: memory is read and copied at once, not mapped */
    bool track_dirty;         /* diffs may follow; the first one's parent is this snapshot */
    stasis_progress_fn *progress; /* of the check that `verify` asks for; may be NULL */
    void *progress_arg;
};

/* Times of a load, microseconds since its beginning, for benchmarks and `--timings`. */
struct microvm_load_report {
    uint64_t opened_us;    /* snapshot open and checked */
    uint64_t created_us;   /* KVM VM, vCPUs, memory mapped */
    uint64_t restored_us;  /* machine state and devices in place */
    uint64_t first_run_us; /* just before the first KVM_RUN; 0 when left paused */
    uint64_t first_run_ns; /* the same moment on CLOCK_MONOTONIC, for whoever started the process */
};

struct microvm_save_options {
    /* Digest, label, limits, progress. The tracker, the arena and the parent are the microVM's own. */
    struct stasis_save_options snapshot;
    bool diff;               /* only what changed since the parent */
    const char *parent_path; /* of a diff; NULL: the last snapshot saved or loaded here */
};

struct microvm_save_report {
    struct stasis_save_report snapshot;
    bool diff;
    uint8_t parent_id[STASIS_ID_SIZE]; /* of a diff */
    uint64_t pause_us; /* the guest stood still because of this save; 0: it was paused before */
};

struct microvm; /* opaque */

int microvm_new(const struct microvm_options *options, struct microvm **ret_vm,
                struct stasis_error *err);
/* Stops it first where it runs. NULL is fine. */
void microvm_free(struct microvm *vm);

/* Configuration, before start or load only; each replaces what was set before. Strings are copied.
 * STASIS_ERR_INVALID_ARGUMENT for values out of range, STASIS_ERR_WRONG_STATE once started. */
int microvm_set_machine(struct microvm *vm, const struct microvm_machine_config *config,
                        struct stasis_error *err);
int microvm_set_boot_source(struct microvm *vm, const struct microvm_boot_source *source,
                            struct stasis_error *err);
int microvm_set_drive(struct microvm *vm, const struct microvm_drive *drive,
                      struct stasis_error *err);
int microvm_set_entropy(struct microvm *vm, bool present, struct stasis_error *err);

/* Build the VM, load the kernel, run. STASIS_ERR_BAD_KERNEL, _DISK, _NO_KVM, _TOO_MANY_VCPUS, ... On failure the
 * microvm is NOT_STARTED as before. */
int microvm_start(struct microvm *vm, struct stasis_error *err);

/* Bring a snapshot to life in a microvm that is NOT_STARTED. `options` and `ret_report` may be NULL. */
int microvm_load(struct microvm *vm, const char *path, const struct microvm_load_options *options,
                 struct microvm_load_report *ret_report, struct stasis_error *err);

/* Quiesce: all vCPUs out of KVM_RUN, device queues idle. STASIS_ERR_QUIESCE_TIMEOUT: the guest goes on.
 * Pausing what is paused, and resuming what runs, succeeds and does nothing. */
int microvm_pause(struct microvm *vm, struct stasis_error *err);
int microvm_resume(struct microvm *vm, struct stasis_error *err);

/* Save to one native file. RUNNING: pauses for as long as what is needed is taken, and resumes, whatever
 * came of it; PAUSED: stays paused. `options` and `ret_report` may be NULL. Errors of stasis_save(), and
 * for a diff STASIS_ERR_NOT_TRACKED changes were not watched, or not since any snapshot;
 * STASIS_ERR_WRONG_PARENT they were since another one. After any failure what changed since the parent is
 * in the next diff. */
int microvm_save(struct microvm *vm, const char *path, const struct microvm_save_options *options,
                 struct microvm_save_report *ret_report, struct stasis_error *err);

/* Press the guest's power button (ACPI). */
int microvm_power_button(struct microvm *vm, struct stasis_error *err);

/* Ask it to end now; microvm_wait() returns soon after. Async-signal-safe. */
void microvm_stop(struct microvm *vm);

/* Wait until the microvm ends. `err` tells about a crash (STASIS_ERR_GUEST_CRASHED, also returned). */
int microvm_wait(struct microvm *vm, enum microvm_exit *ret_exit, struct stasis_error *err);

enum microvm_state microvm_get_state(struct microvm *vm);
const char *microvm_id(const struct microvm *vm);
/* As Firecracker: "Not started", "Running", "Paused". */
const char *microvm_state_name(enum microvm_state state);
void microvm_get_machine(struct microvm *vm, struct microvm_machine_config *ret_config);

#endif
