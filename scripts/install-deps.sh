#!/bin/bash
# install-deps.sh - install the Debian packages that building and testing Stasis needs.
#
# Does nothing when all are there, so it may run as often as one likes. Changes the system only as
# root; otherwise it says what is missing and exits 1.
#
#   install-deps.sh          install what is missing
#   install-deps.sh --check  only say what is missing; exit 1 if something is
set -euo pipefail

packages=(
    # to build
    gcc clang meson ninja-build pkgconf libc6-dev
    libssl-dev libxxhash-dev libisal-dev libcbor-dev libjson-c-dev libzstd-dev
    libmicrohttpd-dev libseccomp-dev scdoc
    # to test
    libcmocka-dev python3 python3-cbor2 libclang-rt-14-dev curl util-linux
    xfsprogs e2fsprogs acpica-tools clang-format clang-tidy g++
    # Linux guests
    busybox-static qemu-system-x86 cpio zstd xz-utils kmod
)

die()
{
    echo "install-deps: $*" >&2
    exit 1
}

# Names of packages that are not installed, one a line.
list_missing()
{
    comm -23 <(printf '%s\n' "${packages[@]}" | LC_ALL=C sort -u) \
        <(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 2>/dev/null |
            awk '$1 ~ /^.i/ { print $2 }' | LC_ALL=C sort -u)
}

command -v dpkg-query >/dev/null || die "this is not a Debian system; install by hand: ${packages[*]}"

mapfile -t missing < <(list_missing)
[ ${#missing[@]} -gt 0 ] || exit 0

[ "${1:-}" != --check ] || die "missing packages: ${missing[*]}"
[ "$(id -u)" -eq 0 ] || die "missing packages, run this as root: apt-get install ${missing[*]}"

echo "install-deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update || die "apt-get update failed; missing are: ${missing[*]}"
apt-get -qq -y --no-install-recommends install "${missing[@]}" </dev/null ||
    die "apt-get install failed for: ${missing[*]}"

mapfile -t missing < <(list_missing)
[ ${#missing[@]} -eq 0 ] || die "still missing after the installation: ${missing[*]}"
