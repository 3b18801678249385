#!/bin/bash
# demo.sh - show it: a guest is saved, killed, restored, and goes on. `make demo` calls this.
#
#   demo.sh BUILD
#
# Which guest depends on /dev/kvm (tests/vm/kvm_kind tells):
#     hardware   Debian's kernel with a busybox initramfs (or the small guest, if it cannot be fetched)
#     software   the small guest of guest/: such a KVM is too slow, or too incomplete, for Linux
#     absent     Linux one level down: QEMU emulates a machine that has a /dev/kvm
# DEMO_KVM=hardware|software|absent overrides. Exit status 0 only when the guest's counter went on
# without a gap. What is fetched is kept in BUILD/linux-kernels
# (or STASIS_KERNELS) for the next time.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: demo.sh BUILD" >&2; exit 2; }
build=$(realpath "$1")
cd "$(dirname "$0")/.."
stasis=$build/src/cli/stasis
kernels=${STASIS_KERNELS:-$build/linux-kernels}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Kernel and disk of the Linux guest, in $work. False when the kernel cannot be had.
make_linux_guest()
{
    tests/linux/fetch-kernels.sh "$kernels" || return 1
    ${CC:-cc} -static -O2 -o "$work/hashcount" tests/linux/hashcount.c
    tests/linux/make-guest-initramfs.sh "$work/initrd" "$kernels/guest" "$work/hashcount"
    tests/linux/make-disk.sh "$work/disk.img" "$work/hashcount"
}

# Everything by plain names in $work: options are words, and paths may hold blanks.
run_here()
{
    mkdir "$work/vm"
    (cd "$work" && STASIS=$stasis FOLDER=vm LIMIT=$1 CMDLINE=$2 RUN_OPTIONS=$3 \
        sh "$steps")
}

demo_small_guest()
{
    cp "$build/guest/stasis-guest.bin" "$work/guest.bin"
    run_here 120 "cpus=2 period=200" "--kernel guest.bin --cpus 2 --memory 128M"
}

demo_linux()
{
    cp "$kernels/guest/vmlinuz" "$work/vmlinuz"
    run_here 120 "console=ttyS0 panic=-1 tick_ms=200" \
        "--kernel vmlinuz --initrd initrd --cpus 2 --memory 512M --disk id=vda,path=disk.img --rng"
}

demo_nested()
{
    # By a path without blanks, and with its library where the loader down there looks anyway.
    mkdir "$work/bin"
    cp "$stasis" "$work/bin/stasis"
    cp "$build/src/libstasis.so.0" "$work/libstasis.so.0"

    # noxsave: QEMU does not intercept a nested guest's XSETBV, so Linux would warn and do so itself.
    /usr/bin/python3 tests/linux/nested.py --kernels "$kernels" --script "$steps" \
        --bin "$work/bin/stasis" --add "$work/libstasis.so.0:/lib/libstasis.so.0" \
        --add "$kernels/guest/vmlinuz:/guest/vmlinuz" --add "$work/initrd:/guest/initrd" \
        --add "$work/disk.img:/guest/disk.img" --timeout 900 \
        --env STASIS=/bin/stasis --env FOLDER=/tmp --env LIMIT=300 \
        --env "CMDLINE=console=ttyS0 panic=-1 quiet noxsave tick_ms=200" \
        --env "RUN_OPTIONS=--kernel /guest/vmlinuz --initrd /guest/initrd --cpus 2 --memory 256M --disk id=vda,path=/guest/disk.img --rng"
}

steps=$PWD/scripts/demo-steps.sh
kind=$("$build/tests/vm/kvm_kind")
echo "demo: /dev/kvm is $kind"
if [ -n "${DEMO_KVM:-}" ]; then
    kind="$DEMO_KVM: because DEMO_KVM says so"
    echo "demo: taken as $kind"
fi

case $kind in
hardware:*)
    if make_linux_guest; then
        echo "demo: the guest is Debian's kernel $(cat "$kernels/guest/release"), as this KVM runs Linux"
        demo_linux
    else
        echo "demo: the guest is the small one, as Debian's kernel could not be fetched"
        demo_small_guest
    fi
    ;;
software:*)
    echo "demo: the guest is the small one, as this KVM cannot run Linux in reasonable time"
    demo_small_guest
    ;;
*)
    make_linux_guest || { echo "demo: Linux one level down needs Debian's kernels" >&2; exit 1; }
    echo "demo: the guest is Debian's kernel $(cat "$kernels/guest/release"), one level down in QEMU, as there is no KVM here"
    echo "demo: all of it is emulated; that takes a minute or two"
    demo_nested
    ;;
esac
