# Shared by the scripts beside it: sourced, never run. Installs what is missing and finds a place for scratch files.
#
# Rule: nothing here touches a database server of the machine. A package that would start one is kept from doing so.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Runs a command as root, by sudo if need be.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

is_installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

# Keeps packages from starting their services while they are installed; undone afterwards, so that the machine's policy stays as it was.
with_services_denied() {
    local policy=/usr/sbin/policy-rc.d status=0
    if [ -e "$policy" ]; then
        "$@"
        return
    fi
    as_root sh -c "printf '#!/bin/sh\nexit 101\n' > $policy && chmod 755 $policy"
    "$@" || status=$?
    as_root rm -f "$policy"
    return "$status"
}

# Installs those of the packages that are missing.
need() {
    local missing=() package
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "Missing and no apt-get to install them: ${missing[*]}"
    say "Installing ${missing[*]}" >&2
    as_root apt-get update -qq >&2
    with_services_denied as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

need_build_tools() {
    need gcc libc6-dev pkg-config libaio-dev libclang-dev clang git ca-certificates
    command -v cargo >/dev/null || [ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    command -v cargo >/dev/null || die "No Rust toolchain: install it from https://rustup.rs and run this again"
}

need_mariadb() { need mariadb-server mariadb-client util-linux; }

# A scratch directory that goes away with the script, with every process that was started from it. Servers that give up root make their temporary files in it, too.
make_scratch() {
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/hm.XXXXX")
    chmod 1777 "$scratch"
    export TMPDIR=$scratch
    trap clean_scratch EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# Prints the processes that were started with a path inside the scratch directory on their command line.
left_processes() {
    local file
    for file in /proc/[0-9]*/cmdline; do
        if { tr '\0' ' ' <"$file"; } 2>/dev/null | grep -qF -- "$scratch/"; then
            basename "$(dirname "$file")"
        fi
    done
}

clean_scratch() {
    local status=$? pid mount
    trap - EXIT
    for pid in $(left_processes); do
        [ "$pid" = $$ ] || kill -KILL "$pid" 2>/dev/null || true
    done
    awk -v at="$scratch/" 'index($2, at) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mount; do
        umount -l "$mount" || true
    done
    rm -rf "$scratch"
    exit "$status"
}
