/* microvm_private.h - the microvm's inside, for the files that implement microvm.h.
 *
 * One lock for what is short, one token for what is long: an action that builds, stops or saves the
 * VM takes `action` under the lock (microvm_begin), works without the lock, and gives it back
 * (microvm_end). Whoever holds the token, and nobody else, touches `vm`, `host` and the
 * configuration; the lock protects everything else. So get_state answers while a long action goes
 * on, and a second one is told that there is one.
 *
 * The second part of a save goes without the token (microvm_save.c): of `vm` it uses the tracker,
 * which nobody else does meanwhile, and `saving` keeps the VM from being taken down.
 *
 * A supervisor thread waits for the guest's own events (power-off, reset, crash) and for
 * microvm_stop(), and does what they ask when the token is free. Before that it opens KVM, makes an
 * empty VM and probes the host, while the caller is still busy: restores are measured in fractions
 * of a millisecond. */
#ifndef STASIS_MICROVM_MICROVM_PRIVATE_H
#define STASIS_MICROVM_MICROVM_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <stasis/error.h>

#include "microvm/microvm.h"
#include "microvm/vm.h"
#include "microvm/vm_host.h"

/* What the user asked for, or what a snapshot said; goes into snapshots. */
struct microvm_config {
    struct microvm_machine_config machine;
    char kernel_path[4096]; /* "": none */
    char initrd_path[4096]; /* "": none */
    char cmdline[MICROVM_CMDLINE_SIZE];
    bool has_cmdline; /* false: the default for this kind of kernel */
    struct vm_drive drives[MICROVM_DRIVE_MAX];
    size_t drives_count;
    bool has_entropy;
};

struct microvm {
    char id[MICROVM_ID_SIZE];
    char *serial;
    uint64_t quiesce_timeout_ns;
    bool no_seccomp;
    bool exit_on_reset;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum microvm_state state;
    const char *action; /* the token: NULL when free, or the name of what goes on */
    bool saving;        /* a save is in its second part */
    bool prepared;      /* the supervisor has opened KVM and made an empty VM, or failed to */
    bool probed;        /* and has looked at the host, or failed to */

    /* With the token. */
    struct microvm_config config;
    struct vm_host host;
    struct vm vm;
    struct console *console;
    char *
        last_snapshot; /* path of the last one saved or loaded by this VM; NULL: none. Also by `saving` */
    struct stasis_arena *arena; /* of the diffs; NULL: none yet. Also by `saving` */

    /* With the lock: the first event of this VM, until the supervisor has dealt with it. */
    enum vcpu_event event;
    struct stasis_error event_why;

    /* With the lock: how it ended, once STOPPED. */
    enum microvm_exit exit;
    int exit_result;
    struct stasis_error exit_error;

    pthread_t supervisor;
    bool has_supervisor;
    int wake_fd; /* eventfd: an event, a stop, or the end of the supervisor */
    atomic_bool stop_wanted;
    bool quit; /* with the lock: the supervisor is to return */
};

#define MICROVM_IN(state) (1u << (state))

/* Take the token for `action` ("save"), where the state is one of `states`, a mask of MICROVM_IN().
 * STASIS_ERR_BUSY, STASIS_ERR_WRONG_STATE. */
int microvm_begin(struct microvm *vm, const char *action, unsigned states,
                  struct stasis_error *err);
/* Give it back and go to `state`. */
void microvm_end(struct microvm *vm, enum microvm_state state);
/* Take the token for a save: STASIS_ERR_BUSY also while another is in its second part. */
int microvm_begin_save(struct microvm *vm, unsigned states, struct stasis_error *err);
/* Give the token back with the second part still to do, and tell that it is done. */
void microvm_end_first_part(struct microvm *vm, enum microvm_state state);
void microvm_end_save(struct microvm *vm);

/* All below with the token. */

/* STASIS_ERR_INVALID_ARGUMENT when `path` is a disk, the kernel, the initrd or the console's file. */
int microvm_refuse_own_file(const struct microvm *vm, const char *path, struct stasis_error *err);

/* Wait for what the supervisor does ahead of time; do it here where that failed, to say why. The
 * first is for building a VM, the second for capture and restore, and comes after the first. */
int microvm_prepare(struct microvm *vm, struct stasis_error *err);
int microvm_probe(struct microvm *vm, struct stasis_error *err);

/* Quiesce within the time limit. STASIS_ERR_QUIESCE_TIMEOUT; STASIS_ERR_WRONG_STATE when the guest
 * is about to end or to reset: then it runs no more, and the supervisor will deal with it. */
int microvm_quiesce(struct microvm *vm, struct stasis_error *err);
/* The configuration as the VM's builder wants it. */
struct vm_config microvm_vm_config(struct microvm *vm);
/* Build the VM and load its kernel; parked. On failure there is none. */
int microvm_boot(struct microvm *vm, struct stasis_error *err);
/* The console of the options, where it is not open yet. */
int microvm_open_console(struct microvm *vm, struct stasis_error *err);
/* Let go of the VM and the console. */
void microvm_take_down(struct microvm *vm);
/* A VM that failed to come up may have had its event already; it dies with it. */
void microvm_forget_event(struct microvm *vm);
void microvm_set_config(struct microvm *vm, const struct microvm_config *config);
/* Remember the parent of the next diff. Where there is no memory for it, none is known. */
void microvm_remember_snapshot(struct microvm *vm, const char *path);
/* Turn the sandbox on unless the options say no. */
int microvm_enter_sandbox(struct microvm *vm, struct stasis_error *err);

/* The guest's end, by vCPU threads (vcpu_event_fn); `arg` is the microvm. */
void microvm_on_event(void *arg, enum vcpu_event event, const struct stasis_error *why);

/* The "microvm" device of snapshots (microvm_state.c). */
int microvm_config_save(const struct microvm_config *config, struct stasis_machine *machine,
                        struct stasis_error *err);
/* Hostile input: everything is checked, also against the machine and memory that it came with. */
int microvm_config_load(const struct stasis_machine *machine,
                        const struct stasis_snapshot_info *info, struct microvm_config *ret_config,
                        struct stasis_error *err);

/* Copy text into a fixed array; false when it does not fit. */
bool microvm_copy_text(char *to, size_t to_size, const char *from);
/* Relative to the current directory, symlinks left as they are; `what` is for messages ("disk"). */
int microvm_absolute_path(char *to, size_t to_size, const char *path, const char *what,
                          struct stasis_error *err);
/* Ids are [A-Za-z0-9_-]+ and shorter than MICROVM_ID_SIZE. */
bool microvm_id_is_valid(const char *id);

#endif
