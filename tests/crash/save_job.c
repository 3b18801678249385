/*
 * save_job.c - stasis_save() of a small machine, for the crash tests.
 *
 *     save_job save PATH LABEL    exit 0, or 1 and "CODE: text" on stderr
 *     save_job check PATH         opens and verifies; prints the label; exit 1 if it is not whole
 *
 * Guest memory is two regions with data, zero pages and a partial block, so that all that a save
 * writes is written. One thread, so that the order of system calls is always the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <stasis/stasis.h>

#define LOW_SIZE (3 * STASIS_BLOCK_SIZE)
#define HIGH_SIZE (STASIS_BLOCK_SIZE + STASIS_PAGE_SIZE)

#define XSAVE_SIZE 4096

static int make_machine(struct stasis_machine *machine)
{
    struct stasis_x86_machine *x86_64 = calloc(1, sizeof(*x86_64));
    struct stasis_x86_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    uint8_t *xsave = calloc(1, XSAVE_SIZE);

    if (!x86_64 || !vcpu || !xsave) {
        free(x86_64);
        free(vcpu);
        free(xsave);
        return -1;
    }
    *vcpu = (struct stasis_x86_vcpu){ .xsave = xsave, .xsave_size = XSAVE_SIZE };
    *x86_64 = (struct stasis_x86_machine){ .vcpus = vcpu, .vcpus_count = 1 };
    *machine = (struct stasis_machine){ .arch = STASIS_ARCH_X86_64, .x86_64 = x86_64 };
    return 0;
}

static int save(const char *path, const char *label, struct stasis_error *err)
{
    static _Alignas(STASIS_PAGE_SIZE) unsigned char low[LOW_SIZE], high[HIGH_SIZE];
    struct stasis_region regions[] = {
        { .gpa = 0, .size = LOW_SIZE, .hva = low },
        { .gpa = 0x100000000, .size = HIGH_SIZE, .hva = high },
    };
    const struct stasis_memory memory = { .regions = regions, .region_count = 2 };
    const struct stasis_save_options options = { .label = label, .thread_count = 1 };
    struct stasis_machine machine = { 0 };
    int r = -1;

    memset(low + 5000, label[0], 10000);
    memset(low + LOW_SIZE - 1, label[0], 1);
    memset(high, label[0], HIGH_SIZE);
    if (make_machine(&machine) == 0)
        r = stasis_save(path, &machine, &memory, &options, NULL, err);
    stasis_machine_release(&machine);
    return r;
}

static int check(const char *path, struct stasis_error *err)
{
    struct stasis_snapshot *snapshot;
    int r = stasis_open(path, &snapshot, err);

    if (r < 0)
        return r;
    r = stasis_verify(snapshot, NULL, NULL, err);
    if (r == 0)
        printf("%s\n", stasis_snapshot_info(snapshot)->label);
    stasis_close(snapshot);
    return r;
}

int main(int argc, char **argv)
{
    struct stasis_error err = { 0 };
    int r;

    if (argc == 4 && strcmp(argv[1], "save") == 0)
        r = save(argv[2], argv[3], &err);
    else if (argc == 3 && strcmp(argv[1], "check") == 0)
        r = check(argv[2], &err);
    else
        return 2;
    if (r < 0)
        fprintf(stderr, "%s: %s\n", stasis_code_name(err.code), err.text);
    return r < 0;
}
