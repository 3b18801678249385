/* vm_state.h - asking a running microVM for its state, and for another one. */
#ifndef STASIS_CLI_VM_STATE_H
#define STASIS_CLI_VM_STATE_H

#include <stdbool.h>

#include <stasis/error.h>

int vm_state_is_running(const char *socket_path, bool *ret_running, struct stasis_error *err);

/* `state` is "Paused" or "Resumed", as PATCH /vm has it. */
int vm_state_change(const char *socket_path, const char *state, struct stasis_error *err);

#endif
