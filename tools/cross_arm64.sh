#!/usr/bin/env bash
# Compiles the core for arm64 with Debian's cross compiler and runs the codec's tests on it, in Python for arm64 under qemu.
#
#   tools/cross_arm64.sh PYTHON [PYTEST_ARGUMENT...]      PYTHON: the virtual environment's; build/release holds its C++ (make build)
#
# Owns: build/arm64: a root of arm64 packages (Python, libc, nghttp2, zlib), wheels for arm64, a tree of the project.  The system
# is left alone: apt works on lists and a state of its own there.  TensorFlow is not run: what is tested is our code on that
# architecture (codec, JSON, client), not a server.
set -euo pipefail

python=$1
shift
here=$(pwd)
place=$here/build/arm64
root=$place/root
packages=(libpython3-dev libpython3-stdlib python3-minimal libnghttp2-dev libnghttp2-14 zlib1g zlib1g-dev libc6 libgcc-s1
    libstdc++6 libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libuuid1 libsqlite3-0)
tests=(tests/fastpath/test_wire.py tests/fastpath/test_tensor.py tests/fastpath/test_request.py tests/fastpath/test_response.py
    tests/fastpath/test_json_decode.py tests/fastpath/test_json_documents.py tests/fastpath/test_json_encode.py tests/unit/client/test_codec.py)

apt_arm64() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root -o Dir::State="$place/state" \
        -o Dir::State::status="$place/state/status" -o Dir::Cache="$place/cache" "$@"
}

fetch_root() {
    echo "arm64: fetching Python and libraries (once)"
    mkdir -p "$place"/state/lists/partial "$place"/cache/archives/partial "$place/debs" "$root"
    touch "$place/state/status"
    apt_arm64 update
    # What Debian calls python3 stands for one minor version, whose packages hold the files.
    minor=$(apt-cache depends python3-minimal | sed -n 's/.*Depends: \(python3\.[0-9]*\)-minimal.*/\1/p' | head -1)
    (cd "$place/debs" && apt_arm64 download "${packages[@]}" "lib$minor-dev" "lib$minor-minimal" "lib$minor-stdlib" "$minor-minimal")
    for package in "$place"/debs/*.deb; do dpkg -x "$package" "$root"; done
    echo "$minor" >"$place/minor"
}

fetch_wheels() {
    echo "arm64: fetching wheels (once)"
    rm -rf "$place/site"
    "$python" -m pip --disable-pip-version-check install --quiet --only-binary=:all: --implementation cp \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
        --platform manylinux2014_aarch64 --python-version "${minor#python}" --target "$place/site" \
        "numpy<3" grpcio protobuf ml_dtypes pytest pytest-timeout hypothesis requests h2 2>"$place/pip.log" ||
        { cat "$place/pip.log" >&2; exit 1; }
    touch "$place/site/.complete"
}

compile() {
    echo "arm64: compiling tfs._fastpath"
    rm -rf "$place/tree"
    mkdir -p "$place/tree"
    cp -r tfs tests pyproject.toml "$place/tree"
    rm -rf "$place"/tree/tfs/_fastpath*.so "$place/tree/tests/.cache"
    aarch64-linux-gnu-g++ -shared -fPIC -DNDEBUG -std=c++17 -fno-exceptions -ffp-contract=off -fvisibility=hidden -Wno-unused-function -O2 -g0 \
        -I"$root/usr/include/$minor" -I"$root/usr/include" -Itfs -I. build/release/tfs/_fastpath.cpp \
        -o "$place/tree/tfs/_fastpath.cpython-3${minor#python3.}-aarch64-linux-gnu.so" \
        -L"$root/usr/lib/aarch64-linux-gnu" -pthread -lnghttp2 -lz
}

run() {
    cd "$place/tree"
    PYTHONHOME=$root/usr PYTHONPATH=$place/tree:$place/site exec qemu-aarch64-static -L "$root" \
        -E LD_LIBRARY_PATH="$root/lib/aarch64-linux-gnu:$root/usr/lib/aarch64-linux-gnu" "$root/usr/bin/$minor" "$@"
}

[ -e "$place/minor" ] || fetch_root
minor=$(cat "$place/minor")
[ -e "$place/site/.complete" ] || fetch_wheels
compile
run -m pytest -q -p no:cacheprovider --timeout=300 "${tests[@]}" "$@"
