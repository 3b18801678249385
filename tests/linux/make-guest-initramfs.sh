#!/bin/bash
# make-guest-initramfs.sh - what the innermost Linux guest boots into.
#
#   make-guest-initramfs.sh OUT GUEST-KERNEL-DIR [HASHCOUNT]
#
# GUEST-KERNEL-DIR is DIR/guest of fetch-kernels.sh. Inside: busybox, the modules for virtio-mmio
# disks and entropy, ext4 and the power button, hashcount, and guest-init as /init (which tells
# what the guest does). Not compressed: the guest may run at a few million instructions a second,
# and copying is cheaper than unpacking. OUT appears by one rename.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 2 ] && [ $# -le 3 ] || {
    echo "usage: make-guest-initramfs.sh OUT GUEST-KERNEL-DIR [HASHCOUNT]" >&2
    exit 2
}
out=$(realpath -m "$1")
modules=$2/modules
busybox=${BUSYBOX:-/bin/busybox}

work=$(mktemp -d)
trap 'rm -rf "$work"; rm -f "$out.new.$$"' EXIT
root=$work/root
mkdir -p "$root"/{bin,dev,etc/acpi/PWRF,lib/modules,mnt,proc,sys,tmp}

cp "$busybox" "$root/bin/busybox"
if [ $# -eq 3 ]; then
    cp "$3" "$root/bin/hashcount"
else
    ${CC:-cc} -static -O2 -o "$root/bin/hashcount" "$here/hashcount.c"
fi

# Numbered, so that loading them by name is loading them in order. crc32c_generic is asked for by
# ext4 at run time, which no depends= line says.
order=$(/usr/bin/python3 "$here/module-order.py" "$modules" \
    virtio_mmio virtio_blk virtio_rng crc32c_generic ext4 evdev button)
number=10
while IFS= read -r module; do
    cp "$module" "$root/lib/modules/$number-${module##*/}"
    number=$((number + 1))
done <<<"$order"

install -m 755 "$here/guest-init" "$root/init"
# Shutting down resets the disk under hashcount, which would cry BAD: it has to go first.
cat > "$root/bin/power-off" <<'SCRIPT'
#!/bin/sh
echo "init: power off"
touch /tmp/ending
killall -q -9 hashcount
poweroff -f
SCRIPT
printf '#!/bin/sh\nexec /bin/power-off >/dev/ttyS0 2>&1\n' > "$root/etc/acpi/PWRF/00000080"
chmod 755 "$root/bin/power-off" "$root/etc/acpi/PWRF/00000080"

find "$root" -exec touch -h -d @1700000000 {} +
(cd "$root" && find . | LC_ALL=C sort | cpio --quiet --reproducible -R 0:0 -H newc -o) > "$out.new.$$"
mv "$out.new.$$" "$out"
