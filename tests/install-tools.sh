#!/bin/sh
# Installs what the tests need besides Rust: C and C++ compilers, CMake, Ninja, make, and ip and tc for hosts of their own,
# from the distribution's own packages (Debian, Ubuntu). Does nothing, quickly, where all is there.
set -eu

# program:package
tools="gcc:gcc g++:g++ make:make cmake:cmake ninja:ninja-build clang:clang unshare:util-linux nsenter:util-linux prlimit:util-linux script:bsdutils ip:iproute2 tc:iproute2 redis-check-rdb:redis-tools"

packages=""
# Both may be where only root looks for programs.
PATH="$PATH:/usr/sbin:/sbin"
for pair in $tools; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || packages="$packages ${pair#*:}"
done
# A compiler without the C library's headers cannot build anything.
[ -e /usr/include/stdio.h ] || packages="$packages libc6-dev"

# What clang links with for coverage is a package of its own, which clang only recommends.
has_runtime() {
    ls "$(clang -print-resource-dir)"/lib/*/libclang_rt.profile* >/dev/null 2>&1
}
[ -n "$packages" ] || ! has_runtime || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    [ -n "$packages" ] || exit 0
    echo "install-tools.sh: this is not Debian or Ubuntu; please install the equivalents of:$packages" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1; then
    as_root="sudo"
else
    [ -n "$packages" ] || exit 0
    echo "install-tools.sh: not root and no sudo; please install:$packages" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive

# Package lists may be missing (a fresh container) or old; they are fetched only if installing does not work at once.
install() {
    echo "installing: $*"
    $as_root apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 || {
        $as_root apt-get update -q
        $as_root apt-get install -y --no-install-recommends "$@"
    }
}

# shellcheck disable=SC2086  # words on purpose
[ -z "$packages" ] || install $packages
# Without it a row of the table is skipped, and says so.
has_runtime || install "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev" ||
    echo "install-tools.sh: clang has no profile runtime" >&2
