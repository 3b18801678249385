/* device_state.h - a device's state on its way into a machine and back out.
 *
 * Devices describe their state as a struct with a field table; these two helpers name the device in
 * every error, so that "virtio-blk 'data': ..." stands in front of what the decoder says. */
#ifndef STASIS_MICROVM_DEVICE_STATE_H
#define STASIS_MICROVM_DEVICE_STATE_H

#include <stdint.h>

#include <stasis/field.h>
#include <stasis/machine.h>

#include "microvm/device.h"

/* Append `state` under the device's kind and id. */
int device_save_state(const struct device *device, uint32_t version,
                      const struct stasis_table *table, const void *state,
                      struct stasis_machine *machine, struct stasis_error *err);

/* Decode what save made; `ret_state` becomes the caller's, to be released by stasis_fields_release().
 * STASIS_ERR_INVALID_MACHINE no such device in the machine; STASIS_ERR_VERSION; as stasis_device_decode(). */
int device_load_state(const struct device *device, uint32_t version,
                      const struct stasis_table *table, const struct stasis_machine *machine,
                      void *ret_state, struct stasis_error *err);

/* The same for one device of a machine that is not built yet. */
int device_decode_state(const struct stasis_device *saved, uint32_t version,
                        const struct stasis_table *table, void *ret_state,
                        struct stasis_error *err);

#endif
