# Sourced by the scripts beside it: where things are, and how to talk about them. Runs nothing by itself.
# shellcheck shell=bash

# The checkout, and the folder for what is built or downloaded once, outside of it.
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${DAVIT_CACHE:-${HOME:-/root}/.cache/davit}
target=${CARGO_TARGET_DIR:-$repo/target}
crictl_version=v1.36.0
kubelet_version=v1.36.1

# Prints the comment at the top of the script, which is its help.
help() {
    sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
}

say() {
    printf '\033[1m%s\033[0m\n' "$*"
}

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || die "containers need root: run it as root"
}

# The program is in PATH, or else: what to do about it.
need() {
    command -v "$1" >/dev/null || die "$1 is missing: $2"
}
