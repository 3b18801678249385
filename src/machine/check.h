/* check.h - the parts of stasis_machine_check() that know an architecture. Private to this room. */
#ifndef STASIS_MACHINE_CHECK_H
#define STASIS_MACHINE_CHECK_H

#include <stasis/machine.h>

/* `machine` passed fields_check(). 0 or STASIS_ERR_INVALID_MACHINE, text names the field. */
int check_x86_machine(const struct stasis_x86_machine *machine, struct stasis_error *err);
int check_arm64_machine(const struct stasis_arm64_machine *machine, struct stasis_error *err);

#endif
