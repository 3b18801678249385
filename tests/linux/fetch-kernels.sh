#!/bin/bash
# fetch-kernels.sh - Debian's two x86-64 kernels, downloaded and unpacked, nothing installed.
#
#   fetch-kernels.sh DIR
#
#     DIR/outer/   the cloud kernel: runs under QEMU and offers /dev/kvm (see nested.py)
#     DIR/guest/   the generic kernel: the guest under test; it has VMGENID built in
#         vmlinuz            the bzImage
#         vmlinux            guest/ only: the ELF file inside it, for the PVH boot
#         modules/           /lib/modules/RELEASE, as packaged
#         config, release, package
#
# Each half appears by one rename when it is complete, so an interrupted run leaves nothing that a
# later one would take for finished. A second run with both halves present needs no network.
# KERNEL_CACHE may name a folder with the .deb files; they are taken from there and put there.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)

die()
{
    echo "fetch-kernels: $*" >&2
    exit 1
}

# The meta package names no version; what it depends on does.
real_package()
{
    apt-cache depends --important "$1" | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }'
}

# fetch_deb PACKAGE FOLDER: prints the path of the downloaded file.
fetch_deb()
{
    local package=$1 folder=$2 deb

    for deb in "${KERNEL_CACHE:-/nonexistent}/${package}"_*_amd64.deb; do
        [ -f "$deb" ] && { echo "$deb"; return; }
    done

    # apt's sandbox user cannot write into a private folder and warns about it; as root is fine here.
    (cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download "$package" >&2) ||
        die "cannot download $package; is 'apt-get update' needed?"
    deb=$(echo "$folder/${package}"_*_amd64.deb)
    [ -f "$deb" ] || die "$package: apt-get download left no file"
    if [ -n "${KERNEL_CACHE:-}" ]; then
        mkdir -p "$KERNEL_CACHE"
        cp "$deb" "$KERNEL_CACHE/.${deb##*/}.$$"
        mv "$KERNEL_CACHE/.${deb##*/}.$$" "$KERNEL_CACHE/${deb##*/}"
    fi
    echo "$deb"
}

# fetch_kernel META NAME: fills DIR/NAME.
fetch_kernel()
{
    local meta=$1 name=$2 package deb release new

    [ -f "$dir/$name/package" ] && return

    package=$(real_package "$meta")
    [ -n "$package" ] || die "$meta is not known to apt; is 'apt-get update' needed?"
    release=${package#linux-image-}
    echo "fetch-kernels: $name: $package" >&2

    new=$work/$name
    mkdir -p "$new" "$work/$name.root"
    deb=$(fetch_deb "$package" "$work")
    dpkg-deb --fsys-tarfile "$deb" |
        tar -x --no-same-owner -C "$work/$name.root" ./boot ./lib/modules

    mv "$work/$name.root/boot/vmlinuz-$release" "$new/vmlinuz"
    mv "$work/$name.root/boot/config-$release" "$new/config"
    mv "$work/$name.root/lib/modules/$release" "$new/modules"
    if [ "$name" = guest ]; then
        /usr/bin/python3 "$here/extract-vmlinux.py" "$new/vmlinuz" "$new/vmlinux"
    fi
    echo "$release" > "$new/release"
    echo "${deb##*/}" > "$new/package"

    rm -rf "${dir:?}/$name"
    # Another run may have finished first: a rename onto a full folder fails, and that is well.
    mv -T "$new" "$dir/$name" 2>/dev/null || [ -f "$dir/$name/package" ] ||
        die "cannot put $name into $dir"
}

[ $# -eq 1 ] || { echo "usage: fetch-kernels.sh DIR" >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
# Killed runs leave their folder behind; none takes an hour.
find "$dir" -maxdepth 1 -name ".fetch.*" -mmin +60 -exec rm -rf {} +
work=$(mktemp -d "$dir/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

fetch_kernel linux-image-cloud-amd64 outer
fetch_kernel linux-image-amd64 guest
