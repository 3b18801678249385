/* mapping.h - a snapshot's memory in this process, put together from all layers it lies in. */
#ifndef STASIS_SNAPSHOT_MAPPING_H
#define STASIS_SNAPSHOT_MAPPING_H

#include <stasis/memory.h>

#include "format/codec.h"

/* Pages: a run of at least so many is mapped, a shorter one is copied. */
#define MAPPING_RUN_PAGES 16
/* Runs that are mapped at most, far below vm.max_map_count (65530): each may split another mapping in
 * two, and a process has mappings of its own. Where there are more runs, longer ones are copied. */
#define MAPPING_RUNS_MAX 12288

/*
 * Each region at one address, readable and writable, private to the process. Give back with
 * stasis_memory_unmap(). STASIS_ERR_TRUNCATED, errors of open_layer(), STASIS_ERR_OUT_OF_MEMORY, _IO.
 */
int mapping_make(const struct format_codec *codec, const struct format_image *image,
                 struct stasis_memory *ret_memory, struct stasis_error *err);

#endif
