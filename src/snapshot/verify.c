/*
 * verify.c - check every digest of an open snapshot; how is its format's business.
 */
#include "snapshot/handle.h"

int stasis_verify(const struct stasis_snapshot *snapshot,
                  const struct stasis_verify_options *options,
                  struct stasis_verify_report *ret_report, struct stasis_error *err)
{
    struct stasis_verify_options complete = { 0 };

    if (options)
        complete = *options;
    complete.thread_count = job_threads(complete.thread_count);
    return snapshot->codec->verify(snapshot->image, &complete, ret_report, err);
}
