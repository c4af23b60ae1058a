#!/usr/bin/env bash
# A wheel of pycuda for JetPack 6 (Python 3.10, 64-bit ARM, CUDA 12.6), cross-compiled on Debian x86_64.
#
#   build.sh OUTDIR     leaves pycuda-*-cp310-cp310-linux_aarch64.whl there; 0 made, 77 cannot here, 1 failed
#
# pycuda has no wheels, and compiling it on the board takes a compiler and CUDA's headers there. Needs the network
# once, Debian's g++-aarch64-linux-gnu, and a Python 3.10 with headers for this machine: $PYTHON310, python3.10, or
# pyenv's. pip takes what is made with --platform linux_aarch64.
# What is made stays in ${PARFOCAL_RIGS:-~/.cache/parfocal-rigs}/pycuda. PYTHON_TAG=3.11 makes it for another Python.
set -euo pipefail

[ $# = 1 ] || { echo "usage: build.sh OUTDIR"; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$1
python_tag=${PYTHON_TAG:-3.10}
tag=cp${python_tag/./}
cache=${PARFOCAL_RIGS:-$HOME/.cache/parfocal-rigs}/pycuda
log=$cache/$tag.log
version=2026.1
sha256=759516160628ba06f32ce7e563e3f5b9214691dc9528a03ea99ea1073f4e14ba
headers=(nvidia-cuda-runtime-cu12==12.6.77 nvidia-cuda-profiler-api-cu12==12.9.79)
# Ubuntu 22.04's, which JetPack 6 is: glibc 2.35, and libstdc++ of GCC 12.
newest=(GLIBC_2.35 GLIBCXX_3.4.30 CXXABI_1.3.13)
cross=aarch64-linux-gnu

cannot() { echo "pycuda cannot be compiled for JetPack here: $1"; exit 77; }
failed() { tail -n 30 "$log" | cut -c1-300; echo "pycuda for JetPack: $1 (see $log)"; exit 1; }

compiler() {
  command -v $cross-g++ >/dev/null && return 0
  { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } || cannot "as root: apt install g++-$cross"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 g++-$cross; } >>"$log" 2>&1 || cannot "apt cannot install g++-$cross (see $log)"
}

find_python() {
  local candidate pyenv=$HOME/.pyenv/versions
  for candidate in "${PYTHON310:-}" "python$python_tag" "$pyenv/$python_tag".*/bin/"python$python_tag"; do
    "$candidate" -c "import sys, sysconfig, pathlib, ensurepip
ok = '%d.%d' % sys.version_info[:2] == '$python_tag'
sys.exit(not (ok and pathlib.Path(sysconfig.get_path('include'), 'Python.h').is_file()))" 2>/dev/null || continue
    echo "$candidate"
    return 0
  done
  return 1
}

# The interpreter here runs the build; what it says of its own machine is overridden. Its pyconfig.h differs from the
# board's in tests of the compiler's that no extension reads: both are 64-bit, little-endian, with the same types.
build() {
  local venv=$work/venv source=$work/pycuda-$version numpy
  numpy=$(sed -n 's/^numpy==/numpy==/p' "$root/constraints/py${python_tag/./}.txt")
  "$python" -m venv "$venv"
  local pip=("$venv/bin/python" -m pip --disable-pip-version-check -qq)
  "${pip[@]}" install setuptools==80.9.0 wheel==0.45.1 "$numpy"
  mkdir "$work/numpy" "$work/cuda" "$work/source" "$work/link"
  local board=(--platform=manylinux_2_28_aarch64 --platform=manylinux_2_27_aarch64 --platform=manylinux_2_17_aarch64
    --platform=manylinux2014_aarch64)
  "${pip[@]}" download --no-deps --only-binary=:all: "${board[@]}" -d "$work/cuda" "${headers[@]}"
  "${pip[@]}" download --no-deps --only-binary=:all: "${board[@]}" -d "$work/numpy" "$numpy"
  echo "pycuda==$version --hash=sha256:$sha256" >"$work/pins"
  "${pip[@]}" download --no-deps --no-build-isolation --no-binary pycuda -r "$work/pins" -d "$work/source"
  for wheel in "$work"/cuda/*.whl "$work"/numpy/*.whl; do "$venv/bin/python" -m zipfile -e "$wheel" "$work/board"; done
  rm -rf "$venv"/lib/python*/site-packages/numpy/_core/include
  cp -r "$work/board/numpy/_core/include" "$venv"/lib/python*/site-packages/numpy/_core/
  tar -xf "$work"/source/pycuda-*.tar.gz -C "$work"
  # An empty driver to link against: the board's own has what is missing.
  echo | $cross-gcc -x c -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$work/link/libcuda.so" -
  cat >"$source/siteconf.py" <<SITECONF
CUDA_ROOT = "$work"
CUDA_INC_DIR = ["$work/board/nvidia/cuda_runtime/include", "$work/board/nvidia/cuda_profiler_api/include"]
CUDADRV_LIB_DIR = ["$work/link"]
CUDA_ENABLE_CURAND = False
CXXFLAGS = ["-O2", "-g0", "-w", "-ffile-prefix-map=$work=."]
LDFLAGS = ["-L$work/link", "-Wl,--no-as-needed", "-lcuda", "-s"]
SITECONF
  SOURCE_DATE_EPOCH=1767225600 _PYTHON_HOST_PLATFORM=linux-aarch64 \
    SETUPTOOLS_EXT_SUFFIX=".cpython-${python_tag/./}-$cross.so" \
    CC=$cross-gcc CXX=$cross-g++ LDSHARED="$cross-gcc -shared" LDCXXSHARED="$cross-g++ -shared" \
    "${pip[@]}" wheel -v --no-deps --no-build-isolation -w "$work/made" "$source"
}

# fits EXTENSION: prints what the board would not know; nothing if it loads there as far as can be read off the file.
fits() {
  local machine name versions=() want
  machine=$(readelf -h "$1" | sed -n 's/ *Machine: *//p')
  [ "$machine" = AArch64 ] || echo "it is for $machine"
  mapfile -t versions < <(readelf -W --version-info "$1" | sed -n 's/.*Name: \([A-Z]*_[0-9.]*\).*/\1/p' | sort -u)
  for name in "${versions[@]}"; do
    for want in "${newest[@]}"; do
      [ "${name%%_*}" = "${want%%_*}" ] || continue
      [ "$(printf '%s\n' "$name" "$want" | sort -V | tail -n 1)" = "$want" ] || echo "it wants $name"
    done
  done
  # Every symbol is the C or C++ library's (which have versions), the driver's, Python's, or may be missing (weak).
  readelf -W --dyn-syms "$1" | awk '$7 == "UND" && $5 != "WEAK" && NF > 7 { print $8 }' |
    grep -vE '@(GLIBC|GLIBCXX|CXXABI|GCC)_|^_?Py|^cu[A-Z]' | sed 's/^/nobody has /' || true
  readelf -W --dyn-syms "$1" | awk '$7 == "UND" && $8 ~ /^cu[A-Z]/ { print $8 }' | sort -u >"$work/driver"
  # The driver's names with a version are macros in its header.
  while read -r name; do
    grep -qwE "$name|${name%_v[0-9]}" "$work"/board/nvidia/*/include/cuda*.h || echo "the driver has no $name"
  done <"$work/driver"
}

mkdir -p "$cache" "$out"
exec 9>"$cache/lock"
flock 9
recipe=$(cat "${BASH_SOURCE[0]}" "$root/constraints/py${python_tag/./}.txt" | sha256sum | cut -c1-16)
kept=$cache/$tag-$recipe
if [ ! -d "$kept" ]; then
  : >"$log"
  compiler
  python=$(find_python) ||
    cannot "no Python $python_tag with headers; set PYTHON310 to one (pyenv install $python_tag makes it)"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT TERM
  # In a child of its own: bash minds "set -e" nowhere in what "||" follows.
  (set -e; build) >>"$log" 2>&1 &
  wait $! || failed "it does not build"
  "$python" -m zipfile -e "$work"/made/*.whl "$work/wheel"
  for extension in "$work"/wheel/pycuda/*.so; do
    wrong=$(fits "$extension")
    [ -z "$wrong" ] || { echo "$wrong" >>"$log"; failed "$(basename "$extension") would not load on the board"; }
  done
  rm -rf "$cache/$tag"-*
  mv "$work/made" "$kept"
fi
cp "$kept"/*.whl "$out/"
ls "$out"/pycuda-*"$tag"*.whl
