/*
 * device_state.c - a device's state on its way into a machine and back out.
 *
 * The state comes out of a snapshot file and is hostile: here it is found, its version checked and
 * its encoding decoded; whether the values make sense is for each device to say.
 */
#include "microvm/device_state.h"

#include "base/error.h"

int device_save_state(const struct device *device, uint32_t version,
                      const struct stasis_table *table, const void *state,
                      struct stasis_machine *machine, struct stasis_error *err)
{
    const int r = stasis_machine_add_device(machine, device->ops->kind, device->id, version, table,
                                            state, err);

    if (r < 0)
        return stasis_wrap(err, r, "%s '%s'", device->ops->kind, device->id);
    return 0;
}

int device_decode_state(const struct stasis_device *saved, uint32_t version,
                        const struct stasis_table *table, void *ret_state, struct stasis_error *err)
{
    int r;

    if (saved->version != version)
        return stasis_fail(err, STASIS_ERR_VERSION,
                           "%s '%s': state version %u, this program reads version %u", saved->kind,
                           saved->id, saved->version, version);
    r = stasis_device_decode(saved, table, ret_state, err);
    if (r < 0)
        return stasis_wrap(err, r, "%s '%s'", saved->kind, saved->id);
    return 0;
}

int device_load_state(const struct device *device, uint32_t version,
                      const struct stasis_table *table, const struct stasis_machine *machine,
                      void *ret_state, struct stasis_error *err)
{
    const struct stasis_device *saved =
        stasis_machine_find_device(machine, device->ops->kind, device->id);

    if (!saved)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE, "the machine has no %s '%s'",
                           device->ops->kind, device->id);
    return device_decode_state(saved, version, table, ret_state, err);
}
