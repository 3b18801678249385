#!/bin/sh
# demo-steps.sh - boot a guest, save it, kill it, restore it, check that it went on. For demo.sh.
#
# Runs on the host and one level down (under busybox), so it keeps to what both shells have. What
# to run comes in variables:
#     STASIS   the command                 RUN_OPTIONS  of `stasis run`, apart by blanks
#     FOLDER   a private, empty folder     CMDLINE      of the guest
#     LIMIT    seconds a step may take
# The guest prints lines "count N ..." or "hashcount N ..." with N = 1, 2, 3 ...
#
# The proof: the guest is paused, saved and killed, and what it printed before and what the
# restored guest prints, put together, must be one stream with every count in it once, in order. A byte
# lost or repeated at the joint would break a line or the count.
set -u

before=$FOLDER/before.log
after=$FOLDER/after.log
both=$FOLDER/both.log
socket=$FOLDER/vm.sock
snapshot=$FOLDER/demo.stasis
vm=

say() { printf '\n--- %s\n' "$*"; }

stop_vm()
{
    [ -z "$vm" ] || kill -9 "$vm" 2>/dev/null
    vm=
}
trap stop_vm EXIT
trap 'exit 130' INT TERM HUP # so that the machine does not outlive us

die()
{
    echo "demo: $*" >&2
    cat "$FOLDER"/*.err >&2 2>/dev/null
    exit 1
}

# last_count LOG: of the last whole line with one; 0 when there is none.
last_count()
{
    head -n "$(wc -l <"$1")" "$1" | tr -d '\r' |
        awk '/^(hash)?count [0-9]+ / { n = $2 } END { print n + 0 }'
}

# follow LOG COUNT: prints the log as it grows, until it has reached that count.
follow()
{
    shown=0
    tries=$((LIMIT * 5))
    while :; do
        lines=$(wc -l <"$1")
        if [ "$lines" -gt "$shown" ]; then
            sed -n "$((shown + 1)),${lines}p" "$1" | tr -d '\r' | sed 's/^/guest| /'
            shown=$lines
        fi
        [ "$(last_count "$1")" -lt "$2" ] || return 0
        kill -0 "$vm" 2>/dev/null || die "the machine ended early"
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || die "no count $2 within $LIMIT s"
        sleep 0.2
    done
}

# check LOG: says what is wrong with the stream; the last line may be cut off by the end.
check()
{
    tr -d '\r' <"$1" | awk '
        NR > 1 { examine(held) }
        { held = $0 }
        function examine(line, part) {
            if (line ~ /BAD/) { print line; bad = 1 }
            if (line !~ /^(hash)?count [0-9]/) return
            split(line, part, " ")
            if (part[2] != last + 1) { print part[2] " follows " last; bad = 1 }
            last = part[2]
        }
        END { if (last == 0) print "no counts"; exit bad || last == 0 }'
}

: >"$before"
: >"$after"

say "boot: stasis run $RUN_OPTIONS --api-socket vm.sock"
# shellcheck disable=SC2086 # the options are words
"$STASIS" run $RUN_OPTIONS --cmdline "$CMDLINE" --api-socket "$socket" \
    </dev/null >"$before" 2>"$FOLDER/run.err" &
vm=$!
follow "$before" 8

say "pause and save: stasis save --socket vm.sock --output demo.stasis"
"$STASIS" pause --socket "$socket" || die "pause failed"
"$STASIS" save --socket "$socket" --output "$snapshot" 2>"$FOLDER/save.err" || die "save failed"
saved_at=$(last_count "$before")

say "kill -9 $vm: the machine is gone, at count $saved_at"
kill -9 "$vm"
wait "$vm" 2>/dev/null
vm=
rm -f "$socket"

say "what is left: stasis info, stasis verify"
"$STASIS" info "$snapshot" || die "info failed"
"$STASIS" verify "$snapshot" || die "verify failed"

say "restore: stasis restore demo.stasis --api-socket vm.sock"
"$STASIS" restore "$snapshot" --api-socket "$socket" </dev/null >"$after" 2>"$FOLDER/restore.err" &
vm=$!
follow "$after" $((saved_at + 8))

cat "$before" "$after" >"$both"
check "$both" || die "the guest did not go on where it was saved"
say "the guest counted from 1 to $(last_count "$both") without a gap; it was dead between counts $saved_at and $((saved_at + 1))"
