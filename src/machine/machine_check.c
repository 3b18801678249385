/*
 * machine_check.c - is this a machine that could run?
 *
 * The one gate that every machine passes before it is written to a file and after it was read from
 * one: field ranges by the tables, then what must hold between fields. It only reads. What it lets
 * through may still not fit a host (stasis_kvm_check_host()), but it is whole.
 */
#include <stasis/machine.h>

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "machine/cbor.h"
#include "machine/check.h"
#include "machine/fields.h"
#include "machine/walk.h"

/* Exactly the part that `arch` names, and at least one vCPU in it. */
static int check_arch(const struct stasis_machine *machine, struct stasis_error *err)
{
    const bool x86 = machine->arch == STASIS_ARCH_X86_64;

    if (!x86 && machine->arch != STASIS_ARCH_ARM64)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "arch: %" PRIu32 " is no known architecture", machine->arch);
    if (x86 != (machine->x86_64 != NULL))
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE, "x86_64: %s, but arch is %s",
                           machine->x86_64 ? "present" : "absent", stasis_arch_name(machine->arch));
    if (x86 == (machine->arm64 != NULL))
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE, "arm64: %s, but arch is %s",
                           machine->arm64 ? "present" : "absent", stasis_arch_name(machine->arch));
    if (stasis_machine_vcpu_count(machine) == 0)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE, "%s.vcpus: there are none",
                           stasis_arch_name(machine->arch));
    return 0;
}

/* State that calls itself CBOR is one map, from the first byte to the last. */
static bool is_one_map(const uint8_t *data, size_t size)
{
    struct cbor_reader reader;
    struct cbor_token token;

    cbor_reader_init(&reader, data, size);
    if (cbor_reader_next(&reader, &token) != CBOR_READ_OK || token.kind != CBOR_KIND_MAP)
        return false;
    reader.offset = 0;
    return cbor_reader_skip(&reader) == CBOR_READ_OK && cbor_reader_left(&reader) == 0;
}

/* Kinds and ids stand in sentences that people read. */
static bool is_label(const char *text)
{
    return text[0] != '\0' && walk_is_label(text, strlen(text));
}

static int check_device(const struct stasis_machine *machine, size_t index,
                        struct stasis_error *err)
{
    const struct stasis_device *device = &machine->devices[index];

    if (!is_label(device->kind) || !is_label(device->id))
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "devices[%zu].%s: it is empty or has control characters", index,
                           is_label(device->kind) ? "id" : "kind");
    if (stasis_machine_find_device(machine, device->kind, device->id) != device)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "devices[%zu].id: there is another %s '%s'", index, device->kind,
                           device->id);
    if (device->encoding == STASIS_DEVICE_CBOR && !is_one_map(device->state, device->state_size))
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "devices[%zu].state: it is not one CBOR map", index);
    return 0;
}

int stasis_machine_check(const struct stasis_machine *machine, struct stasis_error *err)
{
    int r = fields_check(&stasis_machine_table, machine, err);

    if (r == 0)
        r = check_arch(machine, err);
    for (size_t i = 0; r == 0 && i < machine->devices_count; i++)
        r = check_device(machine, i, err);
    if (r < 0)
        return r;
    return machine->x86_64 ? check_x86_machine(machine->x86_64, err)
                           : check_arm64_machine(machine->arm64, err);
}
