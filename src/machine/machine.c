/*
 * machine.c - the outermost table, devices, and the end of a machine's life.
 *
 * A device's state is a blob of its own inside the machine: CBOR made from the VMM's field table
 * when it is added, so that a machine can be stored, compared and printed without knowing the
 * device. What is added here belongs to the machine; nothing points back into the VMM.
 */
#include <stasis/machine.h>

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "machine/fields.h"
#include "machine/tables.h"
#include "machine/walk.h"

#define HOST(member)                                                                               \
    STASIS_F_ARRAY(struct stasis_host, member, TEXT, .flags = STASIS_FIELD_VOLATILE)
static const struct stasis_field host_fields[] = {
    HOST(hypervisor),
    HOST(kernel_release),
    HOST(cpu_vendor),
    HOST(cpu_model),
    STASIS_F(struct stasis_host, cpu_signature, U32, .show = STASIS_SHOW_HEX,
             .flags = STASIS_FIELD_VOLATILE),
    STASIS_F(struct stasis_host, tsc_khz, U32, .unit = "kHz", .flags = STASIS_FIELD_VOLATILE),
};
static const struct stasis_table host_table = STASIS_TABLE(struct stasis_host, host_fields);

static const struct stasis_field device_fields[] = {
    STASIS_F_ARRAY(struct stasis_device, kind, TEXT, .flags = STASIS_FIELD_KEY),
    STASIS_F_ARRAY(struct stasis_device, id, TEXT, .flags = STASIS_FIELD_KEY),
    STASIS_F(struct stasis_device, version, U32),
    STASIS_F(struct stasis_device, encoding, U32, .max = STASIS_DEVICE_CBOR),
    STASIS_F_BLOB(struct stasis_device, state, STASIS_DEVICE_STATE_MAX, .show = STASIS_SHOW_HEX),
};
const struct stasis_table machine_device_table = STASIS_TABLE(struct stasis_device, device_fields);

static const struct stasis_field machine_fields[] = {
    STASIS_F(struct stasis_machine, arch, U32),
    STASIS_F(struct stasis_machine, host, STRUCT, .table = &host_table),
    STASIS_F(struct stasis_machine, x86_64, PART, .table = &stasis_x86_machine_table),
    STASIS_F(struct stasis_machine, arm64, PART, .table = &stasis_arm64_machine_table),
    STASIS_F_LIST(struct stasis_machine, devices, STASIS_DEVICE_MAX, &machine_device_table,
                  .max = 0),
};
const struct stasis_table stasis_machine_table =
    STASIS_TABLE(struct stasis_machine, machine_fields);

const char *stasis_arch_name(enum stasis_arch arch)
{
    switch (arch) {
    case STASIS_ARCH_X86_64: return "x86_64";
    case STASIS_ARCH_ARM64: return "arm64";
    case STASIS_ARCH_NONE: break;
    }
    return "none";
}

void stasis_machine_release(struct stasis_machine *machine)
{
    stasis_fields_release(&stasis_machine_table, machine);
}

size_t stasis_machine_vcpu_count(const struct stasis_machine *machine)
{
    if (machine->arch == STASIS_ARCH_X86_64 && machine->x86_64)
        return machine->x86_64->vcpus_count;
    if (machine->arch == STASIS_ARCH_ARM64 && machine->arm64)
        return machine->arm64->vcpus_count;
    return 0;
}

const struct stasis_device *stasis_machine_find_device(const struct stasis_machine *machine,
                                                       const char *kind, const char *id)
{
    for (size_t i = 0; i < machine->devices_count; i++) {
        const struct stasis_device *device = &machine->devices[i];

        if (strcmp(device->kind, kind) == 0 && (!id || strcmp(device->id, id) == 0))
            return device;
    }
    return NULL;
}

static int check_label(const char *what, const char *text, size_t size, struct stasis_error *err)
{
    const size_t length = text ? strnlen(text, size) : 0;

    if (length == 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the device's %s is empty", what);
    if (length == size)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the device's %s is longer than %zu bytes", what, size - 1);
    if (!walk_is_label(text, length))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the device's %s is not UTF-8 without control characters", what);
    return 0;
}

static int check_new_device(const struct stasis_machine *machine, const char *kind, const char *id,
                            struct stasis_error *err)
{
    int r = check_label("kind", kind, sizeof(machine->devices->kind), err);

    if (r == 0)
        r = check_label("id", id, sizeof(machine->devices->id), err);
    if (r < 0)
        return r;
    if (stasis_machine_find_device(machine, kind, id))
        return stasis_fail(err, STASIS_ERR_EXISTS, "device %s '%s' is there already", kind, id);
    if (machine->devices_count >= STASIS_DEVICE_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT, "more than %d devices", STASIS_DEVICE_MAX);
    return 0;
}

/* `state` becomes the machine's on success. Kind and id were checked. */
static int append_device(struct stasis_machine *machine, const char *kind, const char *id,
                         uint32_t version, enum stasis_device_encoding encoding, uint8_t *state,
                         size_t state_size, struct stasis_error *err)
{
    struct stasis_device *devices =
        reallocarray(machine->devices, machine->devices_count + 1, sizeof(*devices));
    struct stasis_device *device;

    if (!devices)
        return stasis_fail_memory(err, "a device");
    machine->devices = devices;
    device = &devices[machine->devices_count++];
    *device = (struct stasis_device){
        .version = version, .encoding = encoding, .state = state, .state_size = state_size
    };
    memcpy(device->kind, kind, strlen(kind));
    memcpy(device->id, id, strlen(id));
    return 0;
}

/* The caller's own struct was wrong: an invalid argument, whatever the walker calls it. */
static int fail_encode(int r, const char *kind, const char *id, struct stasis_error *err)
{
    struct stasis_error inner = err ? *err : (struct stasis_error){ 0 };

    if (r == -stasis_code_errno(STASIS_ERR_INVALID_MACHINE))
        r = stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "%s", inner.text);
    return stasis_wrap(err, r, "state of device %s '%s'", kind, id);
}

int stasis_machine_add_device(struct stasis_machine *machine, const char *kind, const char *id,
                              uint32_t version, const struct stasis_table *table, const void *state,
                              struct stasis_error *err)
{
    struct byte_buffer encoded;
    int r = check_new_device(machine, kind, id, err);

    if (r < 0)
        return r;
    byte_buffer_init(&encoded, STASIS_DEVICE_STATE_MAX);
    r = fields_encode(table, state, &encoded, err);
    if (r < 0)
        r = fail_encode(r, kind, id, err);
    else
        r = append_device(machine, kind, id, version, STASIS_DEVICE_CBOR, encoded.data,
                          encoded.size, err);
    if (r == 0)
        encoded.data = NULL; /* the machine's now */
    byte_buffer_release(&encoded);
    return r;
}

int stasis_machine_add_opaque_device(struct stasis_machine *machine, const char *kind,
                                     const char *id, uint32_t version, const void *state,
                                     size_t state_size, struct stasis_error *err)
{
    auto_free uint8_t *copy = NULL;
    int r = check_new_device(machine, kind, id, err);

    if (r < 0)
        return r;
    if (state_size > STASIS_DEVICE_STATE_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT,
                           "state of device %s '%s': %zu bytes, at most %u are allowed", kind, id,
                           state_size, STASIS_DEVICE_STATE_MAX);
    if (state_size > 0) {
        copy = malloc(state_size);
        if (!copy)
            return stasis_fail_memory(err, "a device's state");
        memcpy(copy, state, state_size);
    }
    r = append_device(machine, kind, id, version, STASIS_DEVICE_OPAQUE, copy, state_size, err);
    if (r == 0)
        copy = NULL; /* the machine's now */
    return r;
}

int stasis_device_decode(const struct stasis_device *device, const struct stasis_table *table,
                         void *ret_state, struct stasis_error *err)
{
    int r;

    if (device->encoding != STASIS_DEVICE_CBOR)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "state of device %s '%s' is opaque: only its VMM can read it",
                           device->kind, device->id);
    r = fields_decode(table, device->state, device->state_size, ret_state, err);
    if (r < 0)
        return stasis_wrap(err, r, "state of device %s '%s'", device->kind, device->id);
    return 0;
}
