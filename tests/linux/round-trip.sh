#!/bin/busybox sh
# round-trip.sh - a Linux guest is saved, killed and restored, and never notices.
#
# Runs one level down, under nested.py, which has put into place:
#     /bin/stasis   /guest/vmlinuz   /guest/vmlinux   /guest/initrd   /guest/disk.img
# Options come as variables (nested.py --env): CPUS=2 KERNEL=/guest/vmlinuz MEMORY=256M.
# Prints TAP. Exit status 0 when each line is "ok".
#
# How "no gap" is proven: the guest is paused, what it printed so far is cut off and kept, then it
# is saved and killed. That text and what the restored guest prints, put together, must be one
# stream in which the lines are whole and the counts go 1, 2, 3 ...: a byte lost or printed twice
# at the joint breaks a line or the count.

CPUS=${CPUS:-2}
KERNEL=${KERNEL:-/guest/vmlinuz}
MEMORY=${MEMORY:-256M}
# noxsave: QEMU 7.2 does not intercept a nested guest's XSETBV, so KVM never learns the guest's XCR0
# and answers CPUID 0xD for another one; Linux warns and turns XSAVE off. This spares the warning.
CMDLINE="console=ttyS0 panic=-1 quiet noxsave ${CMDLINE:-}"
BOOT_LIMIT=${BOOT_LIMIT:-120} # seconds; the guest is emulated twice
STEP_LIMIT=${STEP_LIMIT:-60}

# ---- the command line of stasis, all of it in this one place --------------------------------

# run_vm SOCKET LOG: becomes the new machine. Its serial port is our stdin and LOG.
run_vm()
{
    exec stasis run --kernel "$KERNEL" --initrd /guest/initrd --cmdline "$CMDLINE" \
        --cpus "$CPUS" --memory "$MEMORY" --disk "id=vda,path=/tmp/disk.img" --rng \
        --api-socket "$1" >"$2" 2>"$2.err"
}

# restore_vm SNAPSHOT SOCKET LOG [DISK]: becomes the restored machine.
restore_vm()
{
    exec stasis restore "$1" --api-socket "$2" ${4:+--disk "vda=$4"} >"$3" 2>"$3.err"
}

save_vm() { stasis save --socket "$1" -o "$2"; }
pause_vm() { stasis pause --socket "$1"; }
resume_vm() { stasis resume --socket "$1"; }

# ---- TAP ------------------------------------------------------------------------------------

test_number=0
failed=0

# check STATUS SENTENCE
check()
{
    test_number=$((test_number + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $test_number - $2"
    else
        failed=$((failed + 1))
        echo "not ok $test_number - $2"
    fi
}

# show FILE: the end of a log, as TAP comments.
show()
{
    echo "# $1:"
    tail -n "${2:-15}" "$1" 2>/dev/null | tr -d '\r' | sed 's/^/#   /'
}

# give_up SENTENCE: nothing after this could work.
give_up()
{
    check 1 "$1"
    for log in /tmp/*.log /tmp/*.err; do
        [ -s "$log" ] && show "$log" 40
    done
    finish
}

finish()
{
    [ -z "$vm" ] || kill -9 "$vm" 2>/dev/null
    [ -z "$keyboard" ] || kill "$keyboard" 2>/dev/null
    echo "1..$test_number"
    [ "$failed" -eq 0 ]
    exit
}

note() { echo "# $(cut -d' ' -f1 /proc/uptime) s: $*"; }

# ---- looking at guests ----------------------------------------------------------------------

vm=
keyboard=

# wait_for LOG PATTERN SECONDS: fails as well when the machine's process ends.
wait_for()
{
    tries=$(($3 * 10))
    until grep -qE "$2" "$1" 2>/dev/null; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        kill -0 "$vm" 2>/dev/null || { grep -qE "$2" "$1"; return; }
        usleep 100000
    done
}

# last_count LOG: of the last whole line; 0 when there is none.
last_count()
{
    tr -d '\r' <"$1" | awk '/^hashcount [0-9]+ .* mono [0-9]+\.[0-9][0-9][0-9]$/ { n = $2 }
        END { print n + 0 }'
}

# wait_count LOG COUNT SECONDS: until the log's last count is at least COUNT.
wait_count()
{
    tries=$(($3 * 10))
    until [ "$(last_count "$1")" -ge "$2" ]; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] && kill -0 "$vm" 2>/dev/null || return 1
        usleep 100000
    done
}

# The stream of whole "hashcount" lines, its counts one by one from 1 or from its own first. The
# last line may be cut off: the guest may have been stopped inside it. Says what is wrong.
check_stream()
{
    tr -d '\r' <"$1" | awk -v name="$1" -v from="${2:-}" '
        function flaw(text) { print "# " name ": " text; bad++ }
        held != "" { examine(held) }
        { held = $0 }
        function examine(line,    part) {
            if (line ~ /^BAD/)
                flaw(line)
            if (line !~ /hashcount [0-9]/)
                return
            if (line !~ /^hashcount [0-9]+ hashes [0-9]+ ok wall [0-9]+\.[0-9][0-9][0-9] mono [0-9]+\.[0-9][0-9][0-9]$/) {
                flaw("broken line: " line)
                return
            }
            split(line, part, " ")
            if (last == 0 && from != "" && part[2] != from)
                flaw("starts at " part[2] ", not at " from)
            if (last != 0 && part[2] != last + 1)
                flaw(part[2] " follows " last)
            if (part[4] + 0 < hashes + 0)
                flaw("hashes went back from " hashes " to " part[4])
            last = part[2]
            hashes = part[4]
        }
        END { if (last == 0) flaw("no counts"); exit bad != 0 }'
}

# type WORD...: a line on the guest's console.
type_line() { echo "$*" >&3; }

# One FIFO is the keyboard of every guest in turn; held open, so that no reader sees its end.
open_keyboard()
{
    mkfifo /tmp/keyboard
    exec 3<>/tmp/keyboard
}

start_vm() # FUNCTION ARGUMENTS...
{
    ("$@") </tmp/keyboard 3>&- &
    vm=$!
}

kill_vm()
{
    kill -9 "$vm"
    wait "$vm" 2>/dev/null
    vm=
}

# check_wall_clock LOG SENTENCE: a fresh line's wall clock is within a second of ours.
check_wall_clock()
{
    wait_count "$1" $(($(last_count "$1") + 1)) "$STEP_LIMIT"
    now=$(echo | ts %.s)
    wall=$(tr -d '\r' <"$1" | awk '/^hashcount .* mono [0-9]+\.[0-9][0-9][0-9]$/ { w = $7 } END { print w }')
    echo "# outside $now, guest $wall"
    awk -v a="$now" -v b="$wall" 'BEGIN { d = a - b; exit !(d > -1 && d < 1) }'
    check $? "$2"
}

# ask_log LOG: has the guest print the lines of its kernel's log that matter here; into LOG.kernel.
TROUBLE='lockup|rcu.*stall|[Cc]locksource.*unstable|BAD|Oops|[Pp]anic|BUG:|Call Trace'
FORK='crng reseeded due to virtual machine fork'

ask_log()
{
    type_line "dmesg $TROUBLE|$FORK"
    wait_for "$1" "^dmesg end" "$STEP_LIMIT"
    tr -d '\r' <"$1" | awk '/^dmesg\| / { print }' | grep -v 'ommand line:' >"$1.kernel"
    sed 's/^/# /' "$1.kernel"
}

# ---- the test -------------------------------------------------------------------------------

cp /guest/disk.img /tmp/disk.img
open_keyboard
[ -c /dev/kvm ] || give_up "/dev/kvm is there"

note "boot $KERNEL, $CPUS CPUs, $MEMORY"
start_vm run_vm /tmp/a.sock /tmp/a.log
wait_for /tmp/a.log '^hashcount 1 ' "$BOOT_LIMIT" || give_up "the guest boots and counts"
check 0 "the guest boots and counts"
type_line cpus
wait_for /tmp/a.log "^cpus $CPUS" "$STEP_LIMIT"
check $? "it has $CPUS CPUs"
type_line "clock $(echo | ts %.s)"
wait_for /tmp/a.log "^clock set" "$STEP_LIMIT"
check $? "its wall clock is set"
wait_count /tmp/a.log 10 "$STEP_LIMIT" || give_up "it counts to 10"

# Save while it runs; it must go on.
note "save the running guest"
before=$(last_count /tmp/a.log)
save_vm /tmp/a.sock /tmp/running.stasis || give_up "a running guest is saved"
after=$(last_count /tmp/a.log)
check 0 "a running guest is saved"
stasis verify /tmp/running.stasis >/tmp/verify.log 2>&1
check $? "the snapshot passes verify"
wait_count /tmp/a.log $((after + 10)) "$STEP_LIMIT"
check $? "the saved guest goes on"
check_stream /tmp/a.log 1
check $? "the save left no gap and no wrong hash in it"
check_wall_clock /tmp/a.log "the wall clock is right after a save"

# Pause, save, kill, restore: the two logs must join without a seam.
note "pause, save, kill"
pause_vm /tmp/a.sock || give_up "the guest is paused"
usleep 300000
cp /tmp/a.log /tmp/before.log
usleep 700000
cmp -s /tmp/a.log /tmp/before.log
check $? "a paused guest prints nothing"
save_vm /tmp/a.sock /tmp/paused.stasis || give_up "a paused guest is saved"
check 0 "a paused guest is saved"
kill_vm
cmp -s /tmp/a.log /tmp/before.log
check $? "saving a paused guest does not wake it"
count=$(last_count /tmp/before.log)

sleep 3 # longer than the second within which the wall clock must be right
note "restore, last count $count"
start_vm restore_vm /tmp/paused.stasis /tmp/b.sock /tmp/b.log
wait_count /tmp/b.log $((count + 1)) "$STEP_LIMIT" || give_up "the restored guest counts"
check 0 "the restored guest counts"
check_wall_clock /tmp/b.log "its wall clock is right after the restore"
wait_count /tmp/b.log $((count + 10)) "$STEP_LIMIT"
check $? "it goes on"
cat /tmp/before.log /tmp/b.log >/tmp/joined.log
check_stream /tmp/joined.log 1
check $? "it goes on exactly where it was: the joined output has no gap, repeat or wrong hash"
ask_log /tmp/b.log
check $? "it obeys its console"
grep -q "$FORK" /tmp/b.log.kernel
check $? "its kernel noticed the fork (VMGenID)"
grep -qE "$TROUBLE" /tmp/b.log.kernel
check $((! $?)) "its kernel found no lockup, stall, unstable clock or oops"
check_stream /tmp/b.log
check $? "no gap and no wrong hash since"
note "power off"
type_line poweroff
tries=$((STEP_LIMIT * 10))
while kill -0 "$vm" 2>/dev/null && [ $tries -gt 0 ]; do
    tries=$((tries - 1))
    usleep 100000
done
[ $tries -gt 0 ] || give_up "the guest powers itself off"
wait "$vm"
check $? "the guest powers itself off, stasis ends with status 0"
vm=

# The snapshot of the running guest, taken earlier.
note "restore the snapshot of the running guest"
start_vm restore_vm /tmp/running.stasis /tmp/c.sock /tmp/c.log
wait_for /tmp/c.log 'hashcount [0-9]+ .* mono ' "$STEP_LIMIT" || give_up "it is restored"
wait_count /tmp/c.log $((after + 5)) "$STEP_LIMIT"
check $? "the snapshot of the running guest is restored"
# The first line may have begun before the save: its end alone is in this log, so start at the next.
tr -d '\r' </tmp/c.log | awk 'NR > 1 || /^hashcount /' >/tmp/c.whole.log
first=$(awk '/^hashcount / { print $2; exit }' /tmp/c.whole.log)
echo "# before $before, after $after, first $first"
[ "$first" -ge $((before + 1)) ] && [ "$first" -le $((after + 2)) ]
check $? "it goes on from where it was saved"
check_stream /tmp/c.whole.log
check $? "without a gap or a wrong hash"
kill_vm
finish
