/* kvm_x86_64_features.h - CPUID feature bits by the names people know them by.
 *
 * A row is one register of one leaf. Names are those of /proc/cpuinfo where it has one. */
#ifndef STASIS_HYPERVISOR_KVM_X86_64_FEATURES_H
#define STASIS_HYPERVISOR_KVM_X86_64_FEATURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/x86_64.h>

enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

struct cpuid_feature_word {
    uint32_t function, index;
    enum cpuid_reg reg;
    uint32_t ignored; /* bits that say nothing of the host: set at run time, or by the VMM alone */
    const char *prefix; /* before each name; NULL for none */
    const char *names;  /* one word a bit, see the table */
};

#define CPUID_KVM_FEATURES 0x40000001u /* at the base where the KVM signature stands */

extern const struct cpuid_feature_word cpuid_feature_words[];
extern const size_t cpuid_feature_word_count;

uint32_t cpuid_entry_reg(const struct stasis_x86_cpuid *entry, enum cpuid_reg reg);

#define CPUID_FEATURE_NAME_SIZE 48
/* "avx512f", or "CPUID 0x7.0 ecx bit 15" for a bit without a name. */
void cpuid_feature_name(const struct cpuid_feature_word *word, unsigned bit,
                        char ret_name[CPUID_FEATURE_NAME_SIZE]);

#endif
