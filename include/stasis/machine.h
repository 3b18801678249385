/* machine.h - machine state: everything of a VM but its RAM.
 *
 * `struct stasis_machine` is the union of what all snapshot formats can say. It owns every pointer
 * in it (malloc); stasis_machine_release() frees them. Zero-initialise one before its first use.
 * A machine is a value: no locks, one thread at a time, or any number of readers. */
#ifndef STASIS_MACHINE_H
#define STASIS_MACHINE_H

#include <stasis/api.h>
#include <stasis/arm64.h>
#include <stasis/error.h>
#include <stasis/field.h>
#include <stasis/x86_64.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STASIS_DEVICE_MAX 1024
#define STASIS_DEVICE_STATE_MAX (64u * 1024 * 1024) /* bytes of one device's state */

enum stasis_arch { STASIS_ARCH_NONE = 0, STASIS_ARCH_X86_64 = 1, STASIS_ARCH_ARM64 = 2 };

/** "x86_64", "arm64", or "none"; static storage. */
STASIS_API const char *stasis_arch_name(enum stasis_arch arch);

/* The host that a machine was captured on: for people and for compatibility messages. Whether a
 * host can run the machine is decided by what the machine uses (stasis_kvm_check_host), not by it. */
struct stasis_host {
    char hypervisor[32];     /* "kvm" */
    char kernel_release[72]; /* uname -r */
    char cpu_vendor[16];     /* "AuthenticAMD" */
    char cpu_model[56];      /* brand string */
    uint32_t cpu_signature;  /* x86: CPUID 1 EAX; arm64: MIDR */
    uint32_t tsc_khz;        /* x86 only */
};

/* How the bytes of a device's state are to be read. */
enum stasis_device_encoding {
    STASIS_DEVICE_OPAQUE = 0, /* only the VMM that wrote it knows */
    STASIS_DEVICE_CBOR = 1,   /* a CBOR map with field names, from a field table */
};

/* One device of the VMM: its kind ("virtio-blk", "serial"), which one (`id`, unique within a kind), the
 * version of its state layout, and the state. */
struct stasis_device {
    char kind[48];
    char id[80];
    uint32_t version;
    uint32_t encoding; /* enum stasis_device_encoding */
    uint8_t *state;
    size_t state_size;
};

struct stasis_machine {
    uint32_t arch; /* enum stasis_arch; says which of the two parts is there */
    struct stasis_host host;
    struct stasis_x86_machine *x86_64;
    struct stasis_arm64_machine *arm64;
    struct stasis_device *devices;
    size_t devices_count;
};

STASIS_API extern const struct stasis_table stasis_machine_table;

/** Free all that `machine` owns and zero it; NULL and half-built machines are fine. */
STASIS_API void stasis_machine_release(struct stasis_machine *machine);

/** vCPUs of the architecture's part; 0 when there is none. */
STASIS_API size_t stasis_machine_vcpu_count(const struct stasis_machine *machine);

/**
 * Check that a machine is one that could run: exactly the part that `arch` names, at least one
 * vCPU, distinct vCPU and device ids, sizes and values in the ranges of the field tables, reserved
 * values refused (an XSAVE area under 576 bytes, a LAPIC page that is not 1024 bytes, ...).
 *
 * @return 0; -EBADMSG STASIS_ERR_INVALID_MACHINE, text names the field; -E2BIG STASIS_ERR_LIMIT
 */
STASIS_API int stasis_machine_check(const struct stasis_machine *machine, struct stasis_error *err);

/* One difference between two machines. */
struct stasis_difference {
    const char *path; /* "x86_64.vcpus[1].regs.rip"; valid during the callback only */
    const char *a;    /* the two values as text, strings in quotes; absent where there is none */
    const char *b;
};
/** @return 0 to go on, anything else to stop the comparison */
typedef int stasis_difference_fn(void *arg, const struct stasis_difference *difference);

#define STASIS_COMPARE_VOLATILE 0x1u /* also compare fields that tick on their own (clocks, host) */

/**
 * Compare two machines field by field, in table order.
 *
 * @param on_difference  called for each difference; may be NULL to count only
 * @param ret_count      number of differences reported (all of them unless the callback stopped)
 * @return 0, also when they differ; -ENOMEM STASIS_ERR_OUT_OF_MEMORY
 */
STASIS_API int stasis_machine_compare(const struct stasis_machine *a,
                                      const struct stasis_machine *b, unsigned flags,
                                      stasis_difference_fn *on_difference, void *arg,
                                      uint64_t *ret_count, struct stasis_error *err);

/**
 * Append a device whose state struct a field table describes; the state is copied (as CBOR).
 *
 * @return 0; -EEXIST a device of this kind and id is there; -E2BIG too many devices or too large;
 *         -EINVAL kind or id empty or too long, or a field out of its range; -ENOMEM
 */
STASIS_API int stasis_machine_add_device(struct stasis_machine *machine, const char *kind,
                                         const char *id, uint32_t version,
                                         const struct stasis_table *table, const void *state,
                                         struct stasis_error *err);

/** Append a device with opaque state, copied. Errors as stasis_machine_add_device(). */
STASIS_API int stasis_machine_add_opaque_device(struct stasis_machine *machine, const char *kind,
                                                const char *id, uint32_t version, const void *state,
                                                size_t state_size, struct stasis_error *err);

/** The device of this kind and id (`id` NULL: the first of the kind), or NULL. Owned by `machine`. */
STASIS_API const struct stasis_device *
stasis_machine_find_device(const struct stasis_machine *machine, const char *kind, const char *id);

/**
 * Decode a device's state into a struct that `table` describes. Unknown keys are skipped; missing
 * ones are an error unless the field is STASIS_FIELD_OPTIONAL.
 *
 * @param ret_state  table->struct_size bytes; its BLOBs, LISTs and PARTs become the caller's, to be
 *                   freed with stasis_fields_release(); untouched on failure
 * @return 0; -EBADMSG STASIS_ERR_CORRUPT or STASIS_ERR_INVALID_MACHINE; -E2BIG; -ENOMEM;
 *         -EINVAL the device is opaque
 */
STASIS_API int stasis_device_decode(const struct stasis_device *device,
                                    const struct stasis_table *table, void *ret_state,
                                    struct stasis_error *err);

/** Free what the pointers in a struct own, as its table tells, and zero the struct. */
STASIS_API void stasis_fields_release(const struct stasis_table *table, void *object);

#ifdef __cplusplus
}
#endif
#endif
