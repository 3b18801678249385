/* test_boot_linux.c - bzImages.
 *
 * Goal:   the protected-mode kernel goes to its preferred address and boot_params get its setup
 * header; a
 *         header that lies about lengths, addresses or the protocol is refused with a sentence.
 * Method: images made by hand after Documentation/arch/x86/boot.rst; cuts and flipped bits. */
#include "test_boot_support.h"

#define SETUP_SECTS 2u
#define KERNEL_OFF ((SETUP_SECTS + 1) * 512u)
#define KERNEL_SIZE 4096u
#define IMAGE_SIZE (KERNEL_OFF + KERNEL_SIZE)
#define PREF_ADDRESS UINT64_C(0x400000)

static void make_image(uint8_t bytes[IMAGE_SIZE])
{
    memset(bytes, 0, IMAGE_SIZE);
    for (size_t i = 0; i < KERNEL_SIZE; i++)
        bytes[KERNEL_OFF + i] = (uint8_t)(i * 5 + 3);
    bytes[0x1f1] = SETUP_SECTS;
    put_number(bytes, 0x1f4, KERNEL_SIZE / 16, 4);
    put_number(bytes, 0x1fe, 0xaa55, 2);
    bytes[0x200] = 0xeb;
    bytes[0x201] = 0x6a; /* the header ends at 0x26c */
    memcpy(bytes + 0x202, "HdrS", 4);
    put_number(bytes, 0x206, 0x020f, 2);
    put_number(bytes, 0x22c, 0x7fffffff, 4); /* initrd_addr_max */
    put_number(bytes, 0x230, 0x200000, 4);   /* kernel_alignment */
    put_number(bytes, 0x236, 0x003f, 2);     /* xloadflags */
    put_number(bytes, 0x238, 100, 4);        /* cmdline_size */
    put_number(bytes, 0x258, PREF_ADDRESS, 8);
    put_number(bytes, 0x260, 0x100000, 4); /* init_size */
}

static void write_image(struct boot_fixture *fixture, size_t offset, uint64_t value, size_t size)
{
    uint8_t bytes[IMAGE_SIZE];

    make_image(bytes);
    put_number(bytes, offset, value, size);
    write_file(fixture->kernel, bytes, sizeof(bytes));
}

static void write_good_image(struct boot_fixture *fixture)
{
    write_image(fixture, 0, 0, 0);
}

static void kernel_goes_to_its_preferred_address(void **state)
{
    struct boot_fixture *fixture = *state;
    uint8_t bytes[IMAGE_SIZE];

    make_image(bytes);
    write_good_image(fixture);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    assert_memory_equal(fixture->ram + PREF_ADDRESS, bytes + KERNEL_OFF, KERNEL_SIZE);
    assert_int_equal(fixture->entry.mode, BOOT_MODE_LONG);
    assert_int_equal(fixture->entry.entry_gpa, PREF_ADDRESS + 0x200);
    assert_int_equal(fixture->entry.info_gpa, LAYOUT_BOOT_PARAMS_GPA);
}

static void boot_params_get_the_setup_header_and_ours(void **state)
{
    struct boot_fixture *fixture = *state;
    const uint64_t params = LAYOUT_BOOT_PARAMS_GPA;

    write_good_image(fixture);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    assert_int_equal(ram_number(fixture, params + 0x206, 2), 0x020f);
    assert_int_equal(ram_number(fixture, params + 0x258, 8), PREF_ADDRESS);
    assert_int_equal(ram_number(fixture, params + 0x1f1, 1), SETUP_SECTS);
    assert_int_equal(ram_number(fixture, params + 0x1ef, 1), 0); /* the sentinel */
    assert_int_equal(ram_number(fixture, params + 0x210, 1), 0xff);
    assert_int_equal(ram_number(fixture, params + 0x211, 1) & 1, 1);
    assert_int_equal(ram_number(fixture, params + 0x228, 4), LAYOUT_CMDLINE_GPA);
    assert_int_equal(ram_number(fixture, params + 0x26c, 4), 0); /* beyond the header */
}

static void linux_has_a_command_line_of_its_own(void **state)
{
    struct boot_fixture *fixture = *state;

    write_good_image(fixture);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    assert_string_equal((char *)fixture->ram + LAYOUT_CMDLINE_GPA,
                        "console=ttyS0 reboot=k panic=1");
    assert_stasis_ok(boot_kernel(fixture, NULL, "quiet"), &fixture->err);
    assert_string_equal((char *)fixture->ram + LAYOUT_CMDLINE_GPA, "quiet");
}

static void command_line_beyond_the_kernels_limit_is_refused(void **state)
{
    struct boot_fixture *fixture = *state;
    char cmdline[102];

    memset(cmdline, 'x', 101);
    cmdline[101] = '\0';
    write_good_image(fixture);
    assert_stasis_fails(boot_kernel(fixture, NULL, cmdline), &fixture->err, STASIS_ERR_BAD_KERNEL);
    cmdline[100] = '\0';
    assert_stasis_ok(boot_kernel(fixture, NULL, cmdline), &fixture->err);
}

static void initrd_stays_below_the_kernels_limit(void **state)
{
    struct boot_fixture *fixture = *state;

    write_file(fixture->initrd, "initrd", 6);
    write_image(fixture, 0x22c, 0x6fffff, 4);
    assert_stasis_ok(boot_kernel(fixture, fixture->initrd, NULL), &fixture->err);
    assert_int_equal(ram_number(fixture, LAYOUT_BOOT_PARAMS_GPA + 0x218, 4), 0x6ff000);
    assert_memory_equal(fixture->ram + 0x6ff000, "initrd", 6);

    /* No room between the kernel's end and that limit. */
    write_image(fixture, 0x22c, PREF_ADDRESS + 0x100000 - 1, 4);
    assert_stasis_fails(boot_kernel(fixture, fixture->initrd, NULL), &fixture->err,
                        STASIS_ERR_BAD_KERNEL);
}

static void signature_behind_the_kernel_is_left_out(void **state)
{
    struct boot_fixture *fixture = *state;

    write_image(fixture, 0x1f4, (KERNEL_SIZE - 512) / 16, 4);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    assert_int_equal(ram_number(fixture, PREF_ADDRESS + KERNEL_SIZE - 512, 8), 0);
    assert_int_not_equal(ram_number(fixture, PREF_ADDRESS + KERNEL_SIZE - 520, 8), 0);
}

static void old_protocols_and_32_bit_kernels_are_refused(void **state)
{
    struct boot_fixture *fixture = *state;

    write_image(fixture, 0x206, 0x020b, 2);
    assert_bad_kernel(fixture, "boot protocol 2.11");
    write_image(fixture, 0x236, 0x003e, 2);
    assert_bad_kernel(fixture, "no 64-bit entry point");
}

static void impossible_addresses_and_sizes_are_refused(void **state)
{
    struct boot_fixture *fixture = *state;

    write_image(fixture, 0x258, 0, 8);
    assert_bad_kernel(fixture, "impossible address");
    write_image(fixture, 0x258, 0xfffff, 8);
    assert_bad_kernel(fixture, "impossible address");
    write_image(fixture, 0x258, UINT64_MAX, 8);
    assert_bad_kernel(fixture, "impossible address");
    write_image(fixture, 0x258, 7 * MIB + 1, 8);
    assert_bad_kernel(fixture, "does not fit");
    write_image(fixture, 0x260, 0xffffffff, 4);
    assert_bad_kernel(fixture, "does not fit");
    write_image(fixture, 0x260, 4 * MIB + 1, 4);
    assert_bad_kernel(fixture, "does not fit");
    write_image(fixture, 0x260, 4 * MIB, 4);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
}

static void kernel_larger_than_ram_is_refused(void **state)
{
    struct boot_fixture *fixture = *state;

    write_image(fixture, 0x1f4, 0, 4); /* no length in the header: the file's counts */
    assert_int_equal(truncate(fixture->kernel, (off_t)(16 * MIB)), 0);
    assert_bad_kernel(fixture, "does not fit");
}

static void truncated_kernels_are_refused(void **state)
{
    struct boot_fixture *fixture = *state;
    uint8_t bytes[IMAGE_SIZE];

    make_image(bytes);
    assert_refuses_cuts(fixture, bytes, IMAGE_SIZE - 16, 13);
    write_image(fixture, 0x1f1, 255, 1);
    assert_bad_kernel(fixture, "ends inside its setup code");
    write_image(fixture, 0x1f4, KERNEL_SIZE / 16 + 1, 4);
    assert_bad_kernel(fixture, "is truncated");
    write_image(fixture, 0x1f4, 0xffffffff, 4);
    assert_bad_kernel(fixture, "is truncated");
    write_image(fixture, 0x1f4, 0x20, 4);
    assert_bad_kernel(fixture, "ends before its 64-bit entry point");
}

static void setup_sects_of_zero_means_four(void **state)
{
    struct boot_fixture *fixture = *state;

    write_image(fixture, 0x1f1, 0, 1);
    assert_int_equal(truncate(fixture->kernel, 5 * 512 + KERNEL_SIZE), 0);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    /* The kernel's third KiB is where two sectors fewer would have put its second. */
    assert_int_equal(fixture->ram[PREF_ADDRESS], (uint8_t)(1024 * 5 + 3));
}

static void flipped_headers_never_reach_beyond_ram(void **state)
{
    struct boot_fixture *fixture = *state;
    uint8_t bytes[IMAGE_SIZE];

    make_image(bytes);
    /* Of the header's own bytes, so that most flips matter. */
    assert_survives_bit_flips(fixture, bytes, IMAGE_SIZE, 0x26c, 100);
    for (size_t bit = 0x1f1 * 8; bit < 0x26c * 8; bit++) {
        make_image(bytes);
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        write_file(fixture->kernel, bytes, sizeof(bytes));
        if (boot_kernel(fixture, NULL, NULL) < 0)
            assert_int_equal(fixture->err.code, STASIS_ERR_BAD_KERNEL);
    }
    assert_first_mib_is_ours(fixture);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        boot_test(kernel_goes_to_its_preferred_address),
        boot_test(boot_params_get_the_setup_header_and_ours),
        boot_test(linux_has_a_command_line_of_its_own),
        boot_test(command_line_beyond_the_kernels_limit_is_refused),
        boot_test(initrd_stays_below_the_kernels_limit),
        boot_test(signature_behind_the_kernel_is_left_out),
        boot_test(old_protocols_and_32_bit_kernels_are_refused),
        boot_test(impossible_addresses_and_sizes_are_refused),
        boot_test(kernel_larger_than_ram_is_refused),
        boot_test(truncated_kernels_are_refused),
        boot_test(setup_sects_of_zero_means_four),
        boot_test(flipped_headers_never_reach_beyond_ram),
    };
    return unit_run(tests);
}
