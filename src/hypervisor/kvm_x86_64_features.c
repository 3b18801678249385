/*
 * kvm_x86_64_features.c - the table behind kvm_x86_64_features.h.
 *
 * Bits come from Intel's SDM (volume 2, CPUID), AMD's APM (volume 3, appendix E) and, for KVM's own
 * leaf, Documentation/virt/kvm/x86/cpuid.rst. A leaf that is not here is not compared: a guest
 * that was shown a feature of it could be restored where the host lacks it, and fault.
 */
#include "hypervisor/kvm_x86_64_features.h"

#include <stdio.h>
#include <string.h>

#define BIT(n) (UINT32_C(1) << (n))

/* One word for each bit, from bit 0 up, eight to a line; "-" for bits without a name. Bits beyond
 * the last word have none either. */
const struct cpuid_feature_word cpuid_feature_words[] = {
    { .function = 0x1,
      .reg = CPUID_ECX,
      /* OSXSAVE follows CR4, HYPERVISOR is the VMM's word. MONITOR and TSC_DEADLINE are offered by
       * capabilities, not by KVM_GET_SUPPORTED_CPUID, and looked at apart. */
      .ignored = BIT(3) | BIT(24) | BIT(27) | BIT(31),
      .names = "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est "
               "tm2 ssse3 cid sdbg fma cx16 xtpr pdcm "
               "- pcid dca sse4_1 sse4_2 x2apic movbe popcnt "
               "tsc_deadline_timer aes xsave osxsave avx f16c rdrand hypervisor" },
    { .function = 0x1,
      .reg = CPUID_EDX,
      .ignored = BIT(9) | BIT(28), /* APIC follows IA32_APICBASE, HTT the VMM's topology */
      .names = "fpu vme de pse tsc msr pae mce "
               "cx8 apic - sep mtrr pge mca cmov "
               "pat pse36 pn clflush - dts acpi mmx "
               "fxsr sse sse2 ss ht tm ia64 pbe" },
    { .function = 0x7,
      .reg = CPUID_EBX,
      .names = "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep "
               "bmi2 erms invpcid rtm cqm zero_fcs_fds mpx rdt_a "
               "avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt "
               "clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl" },
    { .function = 0x7,
      .reg = CPUID_ECX,
      .ignored = BIT(4) | 0x1fu << 17, /* OSPKE follows CR4; MAWAU is a number */
      .names = "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk "
               "gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq - "
               "la57 - - - - - rdpid key_locker "
               "bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc pks" },
    { .function = 0x7,
      .reg = CPUID_EDX,
      .names = "- sgx_keys avx512_4vnniw avx512_4fmaps fsrm uintr - - "
               "avx512_vp2intersect srbds_ctrl md_clear rtm_always_abort - rtm_force_abort "
               "serialize hybrid "
               "tsxldtrk - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 "
               "amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d arch_capabilities "
               "core_capabilities ssbd" },
    { .function = 0x7,
      .index = 1,
      .reg = CPUID_EAX,
      .names = "sha512 sm3 sm4 rao_int avx_vnni avx512_bf16 lass cmpccxadd "
               "arch_perfmon_ext - fzrm fsrs fsrc - - - "
               "- fred lkgs wrmsrns nmi_src amx_fp16 hreset avx_ifma "
               "- - lam msrlist" },
    { .function = 0x7,
      .index = 1,
      .reg = CPUID_EDX,
      .names = "- - - - avx_vnni_int8 avx_ne_convert - - "
               "amx_complex - avx_vnni_int16 - - utmr prefetchi user_msr "
               "- uiret_uif cet_sss avx10 - apx_f" },
    { .function = 0x7,
      .index = 2,
      .reg = CPUID_EDX,
      .names = "intel_psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no" },
    { .function = 0xd,
      .reg = CPUID_EAX,
      .prefix = "xsave component ",
      .names = "x87 sse avx bndregs bndcsr avx512_opmask avx512_zmm_hi256 avx512_hi16_zmm "
               "- pkru - - - - - - "
               "- amx_tilecfg amx_tiledata apx" },
    { .function = 0xd, .reg = CPUID_EDX, .names = "" },
    { .function = 0xd,
      .index = 1,
      .reg = CPUID_EAX,
      .names = "xsaveopt xsavec xgetbv1 xsaves xfd" },
    { .function = 0xd,
      .index = 1,
      .reg = CPUID_ECX,
      .prefix = "xsaves component ",
      .names = "- - - - - - - - "
               "pt - pasid cet_user cet_kernel hdc uintr lbr "
               "hwp" },
    { .function = 0x80000001,
      .reg = CPUID_ECX,
      .ignored = BIT(1), /* CMP_LEGACY is topology */
      .names = "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse "
               "3dnowprefetch osvw ibs xop skinit wdt - lwp "
               "fma4 tce - nodeid_msr - tbm topoext perfctr_core "
               "perfctr_nb - bpext ptsc perfctr_llc mwaitx addr_mask_ext" },
    { .function = 0x80000001,
      .reg = CPUID_EDX,
      .ignored = BIT(9), /* APIC again: AMD repeats most of leaf 1 here */
      .names = "fpu vme de pse tsc msr pae mce "
               "cx8 apic - syscall mtrr pge mca cmov "
               "pat pse36 - mp nx - mmxext mmx "
               "fxsr fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow" },
    { .function = 0x80000007, .reg = CPUID_EBX, .names = "overflow_recov succor - smca" },
    { .function = 0x80000007,
      .reg = CPUID_EDX,
      .names = "ts fid vid ttp tm_amd stc 100mhzsteps hwpstate "
               "invariant_tsc cpb eff_freq_ro proc_feedback acc_power" },
    { .function = 0x80000008,
      .reg = CPUID_EBX,
      .names = "clzero irperf xsaveerptr - rdpru - - - "
               "mcommit wbnoinvd - - ibpb int_wbinvd ibrs stibp "
               "ibrs_always_on stibp_always_on ibrs_preferred ibrs_same_mode efer_lmsle_mba "
               "invlpgb_nested - amd_ppin "
               "amd_ssbd virt_ssbd amd_ssb_no cppc amd_psfd btc_no ibpb_ret branch_sampling" },
    { .function = 0x8000000a,
      .reg = CPUID_EDX,
      .names = "npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists "
               "- - pausefilter - pfthreshold avic - v_vmsave_vmload "
               "vgif gmet x2avic sss_check v_spec_ctrl rogpt - host_mce_override "
               "tlbictl vnmi ibs_virt - svme_addr_chk" },
    { .function = 0x80000021,
      .reg = CPUID_EAX,
      .names = "no_nested_data_bp fsgs_non_serializing lfence_rdtsc smm_page_cfg_lock - - "
               "null_sel_clr_base upper_addr_ignore "
               "autoibrs no_smm_ctl_msr amd_fsrs amd_fsrc - prefetch_ctl_msr - - "
               "- cpuid_user_dis epsf - - - - - "
               "- - - sbpb ibpb_brtype srso_no srso_user_kernel_no srso_bp_spec_reduce" },
    { .function = 0x80000021, .reg = CPUID_ECX, .names = "- tsa_sq_no tsa_l1_no" },
    { .function = 0x80000022, .reg = CPUID_EAX, .names = "perfmon_v2 lbr_v2 lbr_pmc_freeze" },
    { .function = CPUID_KVM_FEATURES,
      .reg = CPUID_EAX,
      .prefix = "kvm_",
      /* Served by the VMM: MSI_EXT_DEST_ID, HC_MAP_GPA_RANGE, MIGRATION_CONTROL. */
      .ignored = BIT(15) | BIT(16) | BIT(17),
      .names = "clocksource nop_io_delay mmu_op clocksource2 async_pf steal_time pv_eoi pv_unhalt "
               "- pv_tlb_flush async_pf_vmexit pv_send_ipi poll_control pv_sched_yield "
               "async_pf_int msi_ext_dest_id "
               "hc_map_gpa_range migration_control - - - - - - "
               "clocksource_stable" },
};

const size_t cpuid_feature_word_count =
    sizeof(cpuid_feature_words) / sizeof(cpuid_feature_words[0]);

uint32_t cpuid_entry_reg(const struct stasis_x86_cpuid *entry, enum cpuid_reg reg)
{
    switch (reg) {
    case CPUID_EAX: return entry->eax;
    case CPUID_EBX: return entry->ebx;
    case CPUID_ECX: return entry->ecx;
    case CPUID_EDX: return entry->edx;
    }
    return 0;
}

/* The word for this bit, not NUL-terminated; size 0 when it has none. */
static const char *find_name(const char *names, unsigned bit, size_t *ret_size)
{
    const char *at = names;

    for (unsigned i = 0; i < bit && *at != '\0'; i++) {
        at += strcspn(at, " ");
        at += strspn(at, " ");
    }
    *ret_size = *at == '-' ? 0 : strcspn(at, " ");
    return at;
}

void cpuid_feature_name(const struct cpuid_feature_word *word, unsigned bit,
                        char ret_name[CPUID_FEATURE_NAME_SIZE])
{
    static const char *const regs[] = { "eax", "ebx", "ecx", "edx" };
    size_t size;
    const char *name = find_name(word->names, bit, &size);

    if (size > 0)
        snprintf(ret_name, CPUID_FEATURE_NAME_SIZE, "%s%.*s", word->prefix ? word->prefix : "",
                 (int)size, name);
    else
        snprintf(ret_name, CPUID_FEATURE_NAME_SIZE, "CPUID 0x%x.%u %s bit %u", word->function,
                 word->index, regs[word->reg], bit);
}
