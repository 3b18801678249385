/* save.h - what may be saved: the checks of a save, before anything is touched. */
#ifndef STASIS_SNAPSHOT_SAVE_H
#define STASIS_SNAPSHOT_SAVE_H

#include <stasis/snapshot.h>

/* Everything that stasis_save_begin() promises to refuse, but for what the target and the machine's
 * size decide. `options` is not NULL. */
int save_check(const struct stasis_machine *machine, const struct stasis_memory *memory,
               const struct stasis_save_options *options, struct stasis_error *err);

#endif
