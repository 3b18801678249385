/* kvm_known.h - the lists of kvm_known.c. */
#ifndef STASIS_TESTS_KVM_KNOWN_H
#define STASIS_TESTS_KVM_KNOWN_H

#include <stddef.h>

#include <linux/kvm.h>

enum cap_kind {
    CAP_STATE,   /* there is state behind it, captured as `where` says */
    CAP_CONFIG,  /* a setting that the VMM makes, and makes again for a restored VM */
    CAP_CALL,    /* a call, a limit or a promise of KVM's; nothing of it stays in a VM */
    CAP_FOREIGN, /* not on x86 */
};

struct known_cap {
    unsigned number;
    const char *name; /* without KVM_CAP_ */
    enum cap_kind kind;
    const char *where;
};

enum ioctl_kind {
    IOCTL_CAPTURED,  /* made by every capture of a VM with all in-kernel devices */
    IOCTL_SOMETIMES, /* made where it is offered or has something to say */
    IOCTL_NO_STATE,  /* not state of a guest, because ... */
    IOCTL_FOREIGN,   /* not on x86; `request` is 0, as some of these do not compile there */
};

struct known_ioctl {
    const char *name;
    unsigned long request;
    enum ioctl_kind kind;
    const char *where; /* field, or reason */
};

extern const struct known_cap known_caps[];
extern const size_t known_cap_count;
extern const struct known_ioctl known_ioctls[];
extern const size_t known_ioctl_count;

#endif
