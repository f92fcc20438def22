#!/usr/bin/env bash
# Installs the Debian packages that a group of targets needs, where something is missing and apt can be used.
#
#   tools/system_packages.sh PYTHON GROUP...      groups: build, test, bench, perf_analyzer, arm64
#
# Owns: which command or header stands for which package.  What is already there by any means is left alone, so a machine
# without apt works as long as it has the tools.  Only what nothing can replace (a compiler, Python's headers, venv) is fatal.
set -euo pipefail

python=$1
shift
required=() wanted=()

has() { command -v "$1" >/dev/null 2>&1; }
need() { required+=("$1"); }
want() { wanted+=("$1"); }

if ! has "$python"; then
    echo "system packages: no '$python' here; install Python 3.10 or newer, or say PYTHON=..." >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "system packages: $("$python" --version) is too old; tfs needs Python 3.10 or newer (PYTHON=...)" >&2
    exit 1
fi

for group in "$@"; do
    case $group in
    build)
        "$python" -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
        header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
        [ -e "$header" ] || need python3-dev
        has c++ || need g++
        has pkg-config || want pkg-config
        { has pkg-config && pkg-config --exists libnghttp2; } || want libnghttp2-dev
        ;;
    test)
        has curl || want curl
        has h2load || want nghttp2-client
        has openssl || want openssl
        has nginx || [ -x /usr/sbin/nginx ] || want nginx-light
        ;;
    arm64)
        has aarch64-linux-gnu-g++ || need g++-aarch64-linux-gnu
        has qemu-aarch64-static || need qemu-user-static
        ;;
    bench)
        has h2load || want nghttp2-client
        has wrk || want wrk
        ;;
    perf_analyzer)
        [ "$(uname -m)" != x86_64 ] || grep -q 'libb64\.so\.0d' <<<"$(/sbin/ldconfig -p)" || want libb64-0d
        ;;
    *)
        echo "system packages: unknown group '$group'; expected build, test, bench, perf_analyzer or arm64" >&2
        exit 2
        ;;
    esac
done

missing=("${required[@]}" "${wanted[@]}")
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
    if has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then as_root=(sudo); else as_root=(false); fi
fi
echo "system packages: installing ${missing[*]}"
if has apt-get && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
    'apt-get update -qq && apt-get install -qq -y --no-install-recommends "$@" >/dev/null' sh "${missing[@]}"; then
    exit 0
fi
if [ ${#required[@]} -gt 0 ]; then
    echo "system packages: cannot install ${required[*]} by apt (not root, or no apt here); install them and try again" >&2
    exit 1
fi
echo "system packages: going on without ${wanted[*]} (no apt, or not root): without libnghttp2-dev the server is built with the" \
    "grpcio transport only; without nghttp2-client, nginx-light, wrk or libb64-0d some tests and benches are skipped" >&2
