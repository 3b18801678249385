/*
 * save.c - check what the caller hands over, fill in the defaults, and let the codec write.
 *
 * What is let through here is written as it is: a machine that could not be restored must be refused
 * while the one that it was taken from still runs.
 */
#include "base/error.h"
#include "snapshot/handle.h"

static int check_mapped(const struct stasis_memory *memory, struct stasis_error *err)
{
    for (size_t i = 0; i < memory->region_count; i++) {
        if (!memory->regions[i].hva)
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                               "memory region %zu is not mapped (hva is NULL)", i);
    }
    return 0;
}

static int check_digest_kind(enum stasis_digest_kind kind, struct stasis_error *err)
{
    if (kind != STASIS_DIGEST_XXH3_128 && kind != STASIS_DIGEST_SHA256)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "unknown digest kind %d", (int)kind);
    return 0;
}

/* The caller's options with the defaults in their places. */
static struct format_content complete(const struct stasis_machine *machine,
                                      const struct stasis_memory *memory,
                                      const struct stasis_save_options *options)
{
    const struct stasis_save_options defaults = { 0 };
    const struct stasis_save_options *given = options ? options : &defaults;

    return (struct format_content){
        .machine = machine,
        .memory = memory,
        .label = given->label ? given->label : "",
        .digest = given->digest ? given->digest : STASIS_DIGEST_XXH3_128,
        .thread_count = job_threads(given->thread_count),
        .progress = given->progress,
        .progress_arg = given->progress_arg,
    };
}

int stasis_save(const char *path, const struct stasis_machine *machine,
                const struct stasis_memory *memory, const struct stasis_save_options *options,
                struct stasis_save_report *ret_report, struct stasis_error *err)
{
    const struct format_content content = complete(machine, memory, options);
    int r;

    if ((r = check_digest_kind(content.digest, err)) < 0 ||
        (r = stasis_memory_check(memory, err)) < 0 || (r = check_mapped(memory, err)) < 0 ||
        (r = stasis_machine_check(machine, err)) < 0 ||
        (r = native_codec.save(path, &content, ret_report, err)) < 0)
        return stasis_wrap(err, r, "save '%s'", path);
    return 0;
}
