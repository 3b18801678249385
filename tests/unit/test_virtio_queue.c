/* Goal:   whatever a guest writes into its rings, the device gets buffers inside guest RAM or an
 *         error, in the guest's order, and the guest gets its chains back.
 * Method: each rule of virtio 1.2 section 2.7 broken once; random rings against an oracle that
 *         follows chains in its own, plain way; RAM stands between forbidden pages. */
#include "device_fixture.h"

#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "microvm/virtio_queue.h"

#define RING_GPA 0x1000u
#define TABLE_GPA 0x8000u
#define DATA_GPA 0x10000u

struct bench {
    struct fake_ram ram;
    struct guest_ring ring;
    struct virtio_queue queue;
    struct virtio_chain chain;
};

static int open_queue(struct bench *bench, uint16_t size, uint16_t start)
{
    const struct virtio_queue_setup setup = { .size = size,
                                              .desc_gpa = bench->ring.desc_gpa,
                                              .driver_gpa = bench->ring.driver_gpa,
                                              .device_gpa = bench->ring.device_gpa };

    return virtio_queue_enable(&bench->queue, &bench->ram.memory, &setup, start, start);
}

static int bench_new(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));

    if (!bench)
        return -1;
    fake_ram_init(&bench->ram);
    ring_init(&bench->ring, &bench->ram, 16, RING_GPA);
    bench->queue.indirect = true;
    *state = bench;
    return open_queue(bench, 16, 0);
}

static int bench_free(void **state)
{
    struct bench *bench = *state;

    fake_ram_release(&bench->ram);
    free(bench);
    return 0;
}

static int pop(struct bench *bench)
{
    return virtio_queue_pop(&bench->queue, &bench->chain);
}

static void assert_buffer(const struct bench *bench, size_t at, uint64_t gpa, size_t size)
{
    assert_ptr_equal(bench->chain.iov[at].iov_base, ram_at(&bench->ram, gpa, size));
    assert_int_equal(bench->chain.iov[at].iov_len, size);
}

static void a_chain_becomes_its_buffers_in_order(void **state)
{
    struct bench *bench = *state;

    ring_desc(&bench->ring, 5, DATA_GPA, 16, DESC_NEXT, 9);
    ring_desc(&bench->ring, 9, HIGH_GPA, HIGH_SIZE, DESC_NEXT, 0);
    ring_desc(&bench->ring, 0, DATA_GPA + 16, 1, DESC_WRITE | DESC_NEXT, 15);
    ring_desc(&bench->ring, 15, LOW_SIZE - 1, 1, DESC_WRITE, 77);
    ring_post(&bench->ring, 5);

    assert_int_equal(pop(bench), 1);
    assert_int_equal(bench->chain.head, 5);
    assert_int_equal(bench->chain.out_count, 2);
    assert_int_equal(bench->chain.in_count, 2);
    assert_int_equal(bench->chain.out_size, 16 + HIGH_SIZE);
    assert_int_equal(bench->chain.in_size, 2);
    assert_buffer(bench, 0, DATA_GPA, 16);
    assert_buffer(bench, 1, HIGH_GPA, HIGH_SIZE);
    assert_buffer(bench, 2, DATA_GPA + 16, 1);
    assert_buffer(bench, 3, LOW_SIZE - 1, 1);
    assert_int_equal(pop(bench), 0);
}

static void an_indirect_table_is_a_chain_of_its_own(void **state)
{
    struct bench *bench = *state;

    table_desc(&bench->ram, TABLE_GPA, 0, DATA_GPA, 8, DESC_NEXT, 2);
    table_desc(&bench->ram, TABLE_GPA, 2, DATA_GPA + 8, 8, DESC_WRITE, 0);
    ring_desc(&bench->ring, 3, TABLE_GPA, 3 * 16, DESC_INDIRECT, 0);
    ring_post(&bench->ring, 3);

    assert_int_equal(pop(bench), 1);
    assert_int_equal(bench->chain.head, 3);
    assert_int_equal(bench->chain.out_count, 1);
    assert_int_equal(bench->chain.in_count, 1);
    assert_buffer(bench, 1, DATA_GPA + 8, 8);
}

static void a_chain_may_end_in_an_indirect_table(void **state)
{
    struct bench *bench = *state;

    table_desc(&bench->ram, TABLE_GPA, 0, DATA_GPA + 64, 8, DESC_WRITE, 0);
    ring_desc(&bench->ring, 0, DATA_GPA, 8, DESC_NEXT, 1);
    ring_desc(&bench->ring, 1, TABLE_GPA, 16, DESC_INDIRECT, 0);
    ring_post(&bench->ring, 0);

    assert_int_equal(pop(bench), 1);
    assert_int_equal(bench->chain.out_count, 1);
    assert_int_equal(bench->chain.in_count, 1);
    assert_buffer(bench, 1, DATA_GPA + 64, 8);
}

static void a_table_need_not_be_aligned(void **state)
{
    struct bench *bench = *state;

    table_desc(&bench->ram, TABLE_GPA + 3, 0, DATA_GPA, 8, 0, 0);
    ring_desc(&bench->ring, 0, TABLE_GPA + 3, 16, DESC_INDIRECT, 0);
    ring_post(&bench->ring, 0);
    assert_int_equal(pop(bench), 1);
    assert_buffer(bench, 0, DATA_GPA, 8);
}

static void the_longest_chain_is_256_buffers(void **state)
{
    struct bench *bench = *state;

    for (uint16_t i = 0; i < 256; i++)
        table_desc(&bench->ram, TABLE_GPA, i, DATA_GPA + i, 1, i < 255 ? DESC_NEXT : 0,
                   (uint16_t)(i + 1));
    ring_desc(&bench->ring, 0, TABLE_GPA, 256 * 16, DESC_INDIRECT, 0);
    ring_post(&bench->ring, 0);
    assert_int_equal(pop(bench), 1);
    assert_int_equal(bench->chain.out_count, 256);

    ring_desc(&bench->ring, 1, DATA_GPA, 1, DESC_NEXT, 0); /* one more, in front */
    ring_post(&bench->ring, 1);
    assert_int_equal(pop(bench), -EBADMSG);
}

static void empty_buffers_are_left_out(void **state)
{
    struct bench *bench = *state;

    ring_desc(&bench->ring, 0, UINT64_MAX, 0, DESC_NEXT, 1);
    ring_desc(&bench->ring, 1, DATA_GPA, 4, DESC_NEXT, 2);
    ring_desc(&bench->ring, 2, 0, 0, DESC_WRITE, 0);
    ring_post(&bench->ring, 0);
    assert_int_equal(pop(bench), 1);
    assert_int_equal(bench->chain.out_count, 1);
    assert_int_equal(bench->chain.in_count, 0);
    assert_buffer(bench, 0, DATA_GPA, 4);
}

/* --- broken rules --------------------------------------------------------------------------- */

static void head_beyond(struct bench *bench)
{
    ring_post(&bench->ring, 16);
}

static void next_beyond(struct bench *bench)
{
    ring_desc(&bench->ring, 0, DATA_GPA, 1, DESC_NEXT, 16);
    ring_post(&bench->ring, 0);
}

static void loop_of_one(struct bench *bench)
{
    ring_desc(&bench->ring, 0, DATA_GPA, 1, DESC_NEXT, 0);
    ring_post(&bench->ring, 0);
}

static void loop_of_empty_buffers(struct bench *bench)
{
    ring_desc(&bench->ring, 0, DATA_GPA, 0, DESC_NEXT, 1);
    ring_desc(&bench->ring, 1, DATA_GPA, 0, DESC_NEXT, 0);
    ring_post(&bench->ring, 0);
}

static void read_after_write(struct bench *bench)
{
    ring_desc(&bench->ring, 0, DATA_GPA, 1, DESC_WRITE | DESC_NEXT, 1);
    ring_desc(&bench->ring, 1, DATA_GPA, 1, 0, 0);
    ring_post(&bench->ring, 0);
}

static void one_buffer(struct bench *bench, uint64_t gpa, uint32_t length)
{
    ring_desc(&bench->ring, 0, gpa, length, 0, 0);
    ring_post(&bench->ring, 0);
}

static void buffer_outside_ram(struct bench *bench)
{
    one_buffer(bench, LOW_SIZE, 1);
}

static void buffer_over_the_end_of_ram(struct bench *bench)
{
    one_buffer(bench, LOW_SIZE - 1, 2);
}

static void buffer_from_hole_into_ram(struct bench *bench)
{
    one_buffer(bench, HIGH_GPA - 1, 2);
}

static void buffer_that_wraps(struct bench *bench)
{
    one_buffer(bench, UINT64_MAX, 2);
}

static void indirect(struct bench *bench, uint64_t gpa, uint32_t length, uint16_t more_flags)
{
    ring_desc(&bench->ring, 0, gpa, length, DESC_INDIRECT | more_flags, 1);
    ring_desc(&bench->ring, 1, DATA_GPA, 1, 0, 0);
    ring_post(&bench->ring, 0);
}

static void indirect_not_negotiated(struct bench *bench)
{
    table_desc(&bench->ram, TABLE_GPA, 0, DATA_GPA, 1, 0, 0);
    bench->queue.indirect = false;
    indirect(bench, TABLE_GPA, 16, 0);
}

static void indirect_with_next(struct bench *bench)
{
    table_desc(&bench->ram, TABLE_GPA, 0, DATA_GPA, 1, 0, 0);
    indirect(bench, TABLE_GPA, 16, DESC_NEXT);
}

static void indirect_in_indirect(struct bench *bench)
{
    table_desc(&bench->ram, TABLE_GPA, 0, TABLE_GPA + 16, 16, DESC_INDIRECT, 0);
    table_desc(&bench->ram, TABLE_GPA, 1, DATA_GPA, 1, 0, 0);
    indirect(bench, TABLE_GPA, 32, 0);
}

static void indirect_to_itself(struct bench *bench)
{
    indirect(bench, RING_GPA, 16, 0);
}

static void indirect_empty(struct bench *bench)
{
    indirect(bench, TABLE_GPA, 0, 0);
}

static void indirect_of_half_a_descriptor(struct bench *bench)
{
    indirect(bench, TABLE_GPA, 24, 0);
}

static void indirect_too_long(struct bench *bench)
{
    table_desc(&bench->ram, TABLE_GPA, 0, DATA_GPA, 1, 0, 0);
    indirect(bench, TABLE_GPA, 257 * 16, 0);
}

static void indirect_of_4_gib(struct bench *bench)
{
    indirect(bench, TABLE_GPA, 0xfffffff0u, 0);
}

static void indirect_outside_ram(struct bench *bench)
{
    indirect(bench, LOW_SIZE - 16, 32, 0);
}

static void indirect_next_beyond_its_table(struct bench *bench)
{
    table_desc(&bench->ram, TABLE_GPA, 0, DATA_GPA, 1, DESC_NEXT, 1);
    table_desc(&bench->ram, TABLE_GPA, 1, DATA_GPA, 1, 0, 0);
    indirect(bench, TABLE_GPA, 16, 0);
}

static void index_jumps_forward(struct bench *bench)
{
    one_buffer(bench, DATA_GPA, 1);
    ring_set_idx(&bench->ring, 17);
}

static void index_jumps_back(struct bench *bench)
{
    one_buffer(bench, DATA_GPA, 1);
    ring_set_idx(&bench->ring, UINT16_MAX);
}

static void every_broken_rule_is_an_error(void **state)
{
    static const struct {
        const char *name;
        void (*breaks)(struct bench *bench);
    } rules[] = {
#define RULE(name) { #name, name }
        RULE(head_beyond),
        RULE(next_beyond),
        RULE(loop_of_one),
        RULE(loop_of_empty_buffers),
        RULE(read_after_write),
        RULE(buffer_outside_ram),
        RULE(buffer_over_the_end_of_ram),
        RULE(buffer_from_hole_into_ram),
        RULE(buffer_that_wraps),
        RULE(indirect_not_negotiated),
        RULE(indirect_with_next),
        RULE(indirect_in_indirect),
        RULE(indirect_to_itself),
        RULE(indirect_empty),
        RULE(indirect_of_half_a_descriptor),
        RULE(indirect_too_long),
        RULE(indirect_of_4_gib),
        RULE(indirect_outside_ram),
        RULE(indirect_next_beyond_its_table),
        RULE(index_jumps_forward),
        RULE(index_jumps_back),
#undef RULE
    };
    struct bench *bench = *state;

    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        int r;

        ring_init(&bench->ring, &bench->ram, 16, RING_GPA);
        bench->queue.indirect = true;
        assert_int_equal(open_queue(bench, 16, 0), 0);
        rules[i].breaks(bench);
        r = pop(bench);
        if (r != -EBADMSG)
            fail_msg("%s: %d", rules[i].name, r);
    }
}

static void a_chain_of_more_than_4_gib_is_an_error(void **state)
{
    struct bench *bench = *state;

    /* As if there were so much RAM; buffers are not touched, only their addresses count. */
    bench->ram.regions[1].size = UINT64_C(0x80000000);
    ring_desc(&bench->ring, 0, HIGH_GPA, 0x80000000u, DESC_NEXT, 1);
    ring_desc(&bench->ring, 1, HIGH_GPA, 0x7fffffffu, 0, 0);
    ring_post(&bench->ring, 0);
    assert_int_equal(pop(bench), 1);
    ring_desc(&bench->ring, 1, HIGH_GPA, 0x80000000u, 0, 0);
    ring_post(&bench->ring, 0);
    assert_int_equal(pop(bench), -EBADMSG);
    bench->ram.regions[1].size = HIGH_SIZE;
}

static void a_queue_is_refused_where_it_cannot_be(void **state)
{
    static const struct virtio_queue_setup bad[] = {
        { 0, 0x1000, 0x2000, 0x3000 },
        { 3, 0x1000, 0x2000, 0x3000 },
        { 512, 0x4000, 0x8000, 0xa000 },
        { 0x10010, 0x1000, 0x2000, 0x3000 }, /* 16 in the low 16 bits */
        { 16, 0x1008, 0x2000, 0x3000 },
        { 16, 0x1000, 0x2001, 0x3000 },
        { 16, 0x1000, 0x2000, 0x3002 },
        { 16, LOW_SIZE - 16 * 16 + 16, 0x2000, 0x3000 },
        { 16, 0x1000, LOW_SIZE - (6 + 2 * 16) + 2, 0x3000 },
        { 16, 0x1000, 0x2000, LOW_SIZE - 8 * 16 },
        { 16, UINT64_MAX - 15, 0x2000, 0x3000 },
        { 16, 0x1000, UINT64_MAX - 1, 0x3000 },
        { 16, 0x1000, 0x2000, UINT64_MAX - 3 },
    };
    struct bench *bench = *state;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct virtio_queue queue = { 0 };

        if (virtio_queue_enable(&queue, &bench->ram.memory, &bad[i], 0, 0) != -EBADMSG)
            fail_msg("setup %zu was accepted", i);
        assert_false(queue.ready);
    }
}

static void a_queue_may_end_with_ram(void **state)
{
    struct bench *bench = *state;
    const struct virtio_queue_setup setup = { 16, LOW_SIZE - 256, HIGH_GPA + HIGH_SIZE - 38, 0 };
    struct virtio_queue queue = { 0 };

    assert_int_equal(virtio_queue_enable(&queue, &bench->ram.memory, &setup, 0, 0), 0);
    assert_true(queue.ready);
}

/* --- giving chains back --------------------------------------------------------------------- */

static void chains_come_and_go_in_order_past_the_wrap_of_the_indices(void **state)
{
    struct bench *bench = *state;
    struct dice dice = { .state = 1 };
    uint32_t head, length;

    for (uint16_t i = 0; i < 16; i++)
        ring_desc(&bench->ring, i, DATA_GPA + i, 1, 0, 0);
    for (unsigned done = 0; done < 70000;) {
        const unsigned count = 1 + (unsigned)dice_below(&dice, 16);
        uint16_t heads[16];

        for (unsigned i = 0; i < count; i++) {
            heads[i] = (uint16_t)dice_below(&dice, 16);
            ring_post(&bench->ring, heads[i]);
        }
        for (unsigned i = 0; i < count; i++) {
            assert_int_equal(pop(bench), 1);
            assert_int_equal(bench->chain.head, heads[i]);
            virtio_queue_push(&bench->queue, bench->chain.head, done + i);
        }
        assert_int_equal(pop(bench), 0);
        for (unsigned i = 0; i < count; i++) {
            assert_true(ring_take(&bench->ring, &head, &length));
            assert_int_equal(head, heads[i]);
            assert_int_equal(length, done + i);
        }
        assert_false(ring_take(&bench->ring, &head, &length));
        done += count;
    }
}

static void the_driver_can_switch_interrupts_off(void **state)
{
    struct bench *bench = *state;

    virtio_queue_push(&bench->queue, 0, 0);
    assert_true(virtio_queue_wants_interrupt(&bench->queue));
    ring_set_flags(&bench->ring, 1);
    virtio_queue_push(&bench->queue, 0, 0);
    assert_false(virtio_queue_wants_interrupt(&bench->queue));
}

/* One by one: the driver wants to hear when element number `event` is pushed. */
static bool passes(uint16_t before, unsigned count, uint16_t event)
{
    for (unsigned i = 0; i < count; i++) {
        if ((uint16_t)(before + i) == event)
            return true;
    }
    return false;
}

static void an_event_index_asks_for_one_interrupt_when_it_is_passed(void **state)
{
    struct bench *bench = *state;
    struct dice dice = { .state = 2 };
    unsigned wanted_count = 0;

    bench->queue.event_idx = true;
    ring_set_used_event(&bench->ring, 10); /* the very first is not asked for */
    virtio_queue_push(&bench->queue, 0, 0);
    assert_false(virtio_queue_wants_interrupt(&bench->queue));
    for (unsigned round = 0; round < 20000; round++) {
        const uint16_t before = bench->queue.next_used;
        const unsigned count = 1 + (unsigned)dice_below(&dice, 16);
        const uint16_t event = (uint16_t)(before + dice_below(&dice, 32) - 8);
        const bool wanted = passes(before, count, event);

        ring_set_used_event(&bench->ring, event);
        for (unsigned i = 0; i < count; i++)
            virtio_queue_push(&bench->queue, 0, 0);
        assert_int_equal(virtio_queue_wants_interrupt(&bench->queue), wanted);
        wanted_count += wanted;
    }
    assert_true(wanted_count > 1000);
}

static void kicks_are_asked_for_by_flag(void **state)
{
    struct bench *bench = *state;

    virtio_queue_suppress_kicks(&bench->queue);
    assert_int_equal(ring_device_flags(&bench->ring), 1);
    assert_false(virtio_queue_want_kicks(&bench->queue));
    assert_int_equal(ring_device_flags(&bench->ring), 0);
}

static void kicks_are_asked_for_by_event_index(void **state)
{
    struct bench *bench = *state;

    bench->queue.event_idx = true;
    ring_desc(&bench->ring, 0, DATA_GPA, 1, 0, 0);
    ring_post(&bench->ring, 0);
    assert_int_equal(pop(bench), 1);
    virtio_queue_suppress_kicks(&bench->queue);
    assert_int_equal(ring_avail_event(&bench->ring), 0);
    assert_int_equal(ring_device_flags(&bench->ring), 0);
    assert_false(virtio_queue_want_kicks(&bench->queue));
    assert_int_equal(ring_avail_event(&bench->ring), 1);
}

static void a_chain_that_came_while_kicks_were_off_is_seen(void **state)
{
    struct bench *bench = *state;

    for (int event_idx = 0; event_idx < 2; event_idx++) {
        bench->queue.event_idx = event_idx;
        virtio_queue_suppress_kicks(&bench->queue);
        ring_desc(&bench->ring, 0, DATA_GPA, 1, 0, 0);
        ring_post(&bench->ring, 0);
        assert_true(virtio_queue_want_kicks(&bench->queue));
        assert_int_equal(pop(bench), 1);
    }
}

/* --- lists of buffers ----------------------------------------------------------------------- */

static void a_slice_has_the_bytes_of_the_whole(void **state)
{
    uint8_t all[64], out[64];
    struct iovec iov[8], slice[8];
    struct dice dice = { .state = 3 };

    (void)state;
    for (unsigned i = 0; i < sizeof(all); i++)
        all[i] = (uint8_t)i;
    for (unsigned round = 0; round < 5000; round++) {
        const uint64_t skip = dice_below(&dice, 70), size = dice_below(&dice, 70);
        size_t at = 0, count = 0, slice_count, got, want;

        while (count < 8) {
            const size_t step = (size_t)dice_below(&dice, 9);

            iov[count++] = (struct iovec){ .iov_base = all + at, .iov_len = step };
            at += step;
        }
        slice_count = virtio_slice(iov, count, skip, size, slice);
        got = virtio_copy_from(slice, slice_count, out, sizeof(out));
        want = skip < at ? at - skip : 0;
        want = size < want ? size : want;
        assert_int_equal(got, want);
        assert_true(slice_count <= count);
        if (got > 0)
            assert_memory_equal(out, all + skip, got);
    }
}

static void copying_into_buffers_fills_them_in_order_and_no_further(void **state)
{
    uint8_t place[6] = { 0 };
    const struct iovec iov[] = { { place, 2 }, { place + 3, 1 }, { place + 4, 1 } };

    (void)state;
    assert_int_equal(virtio_copy_to(iov, 3, "abcdef", 6), 4);
    assert_memory_equal(place, "ab\0cd\0", 6);
    memset(place, 0, sizeof(place));
    assert_int_equal(virtio_copy_to(iov, 3, "abcdef", 3), 3);
    assert_memory_equal(place, "ab\0c\0\0", 6);
}

/* --- hostile guests ------------------------------------------------------------------------- */

struct oracle {
    bool valid;
    unsigned count; /* buffers that are not empty */
    uint64_t out_size, in_size;
};

static bool is_ram(uint64_t gpa, uint64_t size)
{
    if (gpa < LOW_SIZE)
        return size <= LOW_SIZE - gpa;
    return gpa >= HIGH_GPA && gpa - HIGH_GPA < HIGH_SIZE && size <= HIGH_SIZE - (gpa - HIGH_GPA);
}

static struct vring_desc look_at(const struct bench *bench, uint64_t gpa)
{
    struct vring_desc desc;

    memcpy(&desc, ram_at(&bench->ram, gpa, sizeof(desc)), sizeof(desc));
    return desc;
}

/* The specification's rules, read once more. */
static struct oracle judge(const struct bench *bench, uint16_t head)
{
    const struct oracle bad = { .valid = false };
    struct oracle oracle = { .valid = true };
    uint64_t table = bench->ring.desc_gpa;
    uint32_t entries = bench->ring.size, index = head;
    bool inside = false, more = true;

    for (unsigned visited = 0; more; visited++) {
        struct vring_desc desc;

        if (visited > 256 || index >= entries)
            return bad;
        desc = look_at(bench, table + 16 * (uint64_t)index);
        if (desc.flags & DESC_INDIRECT) {
            if (inside || desc.flags & DESC_NEXT || desc.len < 16 || desc.len > 4096 ||
                desc.len % 16 || !is_ram(desc.addr, desc.len))
                return bad;
            inside = true;
            table = desc.addr;
            entries = desc.len / 16;
            index = 0;
            continue;
        }
        if (!(desc.flags & DESC_WRITE) && oracle.in_size > 0)
            return bad;
        if (desc.len > 0 && !is_ram(desc.addr, desc.len))
            return bad;
        *(desc.flags & DESC_WRITE ? &oracle.in_size : &oracle.out_size) += desc.len;
        oracle.count += desc.len > 0;
        index = desc.next;
        more = desc.flags & DESC_NEXT;
    }
    return oracle.count <= 256 ? oracle : bad;
}

static uint64_t hostile_gpa(struct dice *dice)
{
    switch (dice_below(dice, 6)) {
    case 0: return dice_roll(dice);
    case 1: return HIGH_GPA + dice_below(dice, HIGH_SIZE + 64);
    case 2: return LOW_SIZE - dice_below(dice, 64);
    case 3: return TABLE_GPA + 16 * dice_below(dice, 64);
    default: return dice_below(dice, LOW_SIZE);
    }
}

static uint32_t hostile_length(struct dice *dice)
{
    switch (dice_below(dice, 8)) {
    case 0: return (uint32_t)dice_roll(dice);
    case 1: return 0;
    case 2:
    case 3: return 16 * (uint32_t)dice_below(dice, 20);
    default: return (uint32_t)dice_below(dice, 200);
    }
}

static void write_hostile_table(struct bench *bench, struct dice *dice, uint64_t gpa,
                                uint16_t count)
{
    for (uint16_t i = 0; i < count; i++) {
        uint16_t flags = 0;

        flags |= dice_below(dice, 3) ? DESC_NEXT : 0;
        flags |= dice_below(dice, 3) ? 0 : DESC_WRITE;
        flags |= dice_below(dice, 5) ? 0 : DESC_INDIRECT;
        table_desc(&bench->ram, gpa, i, hostile_gpa(dice), hostile_length(dice), flags,
                   (uint16_t)dice_below(dice, count + 1u));
    }
}

static void assert_buffers_in_ram(const struct bench *bench)
{
    const struct virtio_chain *chain = &bench->chain;

    for (size_t i = 0; i < chain->out_count + chain->in_count; i++) {
        const uint8_t *base = chain->iov[i].iov_base;
        bool inside = false;

        for (size_t k = 0; k < 2; k++) {
            const struct stasis_region *region = &bench->ram.regions[k];
            const uint8_t *start = region->hva;

            inside |= base >= start && base < start + region->size &&
                      chain->iov[i].iov_len <= region->size - (size_t)(base - start);
        }
        assert_true(inside);
    }
}

static void random_rings_are_judged_as_the_specification_judges_them(void **state)
{
    struct bench *bench = *state;
    struct dice dice = { .state = 4 };
    unsigned valid_count = 0;

    for (unsigned round = 0; round < 100000; round++) {
        const uint16_t head = (uint16_t)dice_below(&dice, 17);
        struct oracle oracle;
        int r;

        write_hostile_table(bench, &dice, RING_GPA, 16);
        write_hostile_table(bench, &dice, TABLE_GPA, 64);
        oracle = judge(bench, head);
        assert_int_equal(open_queue(bench, 16, 0), 0);
        ring_set_idx(&bench->ring, 0);
        ring_post(&bench->ring, head);

        r = pop(bench);
        if (r != (oracle.valid ? 1 : -EBADMSG))
            fail_msg("round %u: %d, the oracle says %d", round, r, oracle.valid);
        if (r < 0)
            continue;
        valid_count++;
        assert_int_equal(bench->chain.out_count + bench->chain.in_count, oracle.count);
        assert_int_equal(bench->chain.out_size, oracle.out_size);
        assert_int_equal(bench->chain.in_size, oracle.in_size);
        assert_buffers_in_ram(bench);
    }
    assert_true(valid_count > 1000); /* or the test would prove little */
}

/* The whole ring is noise, and the driver's idx jumps: a hostile guest that never stops. */
static void noise_never_makes_the_device_leave_ram_or_loop(void **state)
{
    /* So that noise is now and then an address, a descriptor's second half, a ring. */
    static const uint64_t masks[] = { 0x1fffff, 0x000f00030000ffff, 0x000f000f000f000f,
                                      UINT64_MAX };
    struct bench *bench = *state;
    struct dice dice = { .state = 5 };
    uint8_t *noise = ram_at(&bench->ram, 0, LOW_SIZE);
    unsigned popped = 0, broken = 0;

    for (unsigned round = 0; round < 3000; round++) {
        for (uint64_t at = RING_GPA; at < TABLE_GPA + 4096; at += 8) {
            const uint64_t word = dice_roll(&dice) & masks[dice_below(&dice, 4)];

            memcpy(noise + at, &word, sizeof(word));
        }
        assert_int_equal(open_queue(bench, 16, (uint16_t)dice_roll(&dice)), 0);
        ring_set_idx(&bench->ring, (uint16_t)(bench->queue.next_avail + dice_below(&dice, 18)));
        for (unsigned i = 0; i < 32; i++) {
            const int r = pop(bench);

            if (r < 0)
                broken++;
            if (r <= 0)
                break;
            popped++;
            assert_buffers_in_ram(bench);
            virtio_queue_push(&bench->queue, bench->chain.head, 0);
        }
    }
    assert_true(popped > 100);
    assert_true(broken > 100);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, bench_new, bench_free)
    static const struct CMUnitTest tests[] = {
        CASE(a_chain_becomes_its_buffers_in_order),
        CASE(an_indirect_table_is_a_chain_of_its_own),
        CASE(a_chain_may_end_in_an_indirect_table),
        CASE(a_table_need_not_be_aligned),
        CASE(the_longest_chain_is_256_buffers),
        CASE(empty_buffers_are_left_out),
        CASE(every_broken_rule_is_an_error),
        CASE(a_chain_of_more_than_4_gib_is_an_error),
        CASE(a_queue_is_refused_where_it_cannot_be),
        CASE(a_queue_may_end_with_ram),
        CASE(chains_come_and_go_in_order_past_the_wrap_of_the_indices),
        CASE(the_driver_can_switch_interrupts_off),
        CASE(an_event_index_asks_for_one_interrupt_when_it_is_passed),
        CASE(kicks_are_asked_for_by_flag),
        CASE(kicks_are_asked_for_by_event_index),
        CASE(a_chain_that_came_while_kicks_were_off_is_seen),
        CASE(a_slice_has_the_bytes_of_the_whole),
        CASE(copying_into_buffers_fills_them_in_order_and_no_further),
        CASE(random_rings_are_judged_as_the_specification_judges_them),
        CASE(noise_never_makes_the_device_leave_ram_or_loop),
    };
#undef CASE

    return unit_run(tests);
}
