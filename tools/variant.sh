#!/usr/bin/env bash
# Builds another kind of the core (debug, asan, tsan) beside the tree and runs Python with it.
#
#   tools/variant.sh PYTHON KIND PYTHON_ARGUMENT...        for example: -m pytest tests/fastpath
#
# Owns: build/tree-KIND, a package directory of links to tfs/ with its own compiled module, put first on the path.  The release
# module in the tree stays as it is.
set -euo pipefail

python=$1 kind=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
case $python in /*) ;; *) python=$PWD/$python ;; esac
tree=$root/build/tree-$kind

mkdir -p "$tree/tfs"
find "$tree/tfs" -maxdepth 1 -type l -delete
for entry in "$root"/tfs/*; do
    case $entry in *.so | */__pycache__) ;; *) ln -s "$entry" "$tree/tfs/" ;; esac
done

cd "$root"
echo "compiling tfs._fastpath ($kind)"
TFS_BUILD=$kind "$python" setup.py --quiet build_ext --build-lib "$tree"

export TFS_TEST_BUILD=$kind PYTHONPATH=$tree PYTHONSAFEPATH=1
if [ "$kind" = asan ] || [ "$kind" = tsan ]; then
    compiler=${CXX:-c++}
    # The interpreter is not instrumented: the sanitizer's runtime comes first, and its own small objects stay in malloc's sight.
    LD_PRELOAD=$("$compiler" -print-file-name="lib$kind.so"):$("$compiler" -print-file-name=libstdc++.so.6)
    export LD_PRELOAD PYTHONMALLOC=malloc
    # CPython and TensorFlow keep memory until the process ends by design; leaks of ours show in the debug build's counters.
    export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:detect_odr_violation=0
    export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    export TSAN_OPTIONS=halt_on_error=1:report_signal_unsafe=0:suppressions=$root/tools/tsan.supp
fi
exec "$python" "$@"
