#!/usr/bin/env bash
# NVIDIA's Python bindings without a GPU: TensorRT's from their wheels, pycuda's built here, stubs below both.
#
#   rig.sh [PYTHON]     prepares them for that Python (default: .venv's, or python3); 0 ready, 77 cannot here, 1 broken
#
# Names and signatures can be read off them; nothing can be computed. Needs g++, binutils, flock, Python's headers, and
# the network once. What is made (80 MB a Python) stays in ${PARFOCAL_RIGS:-~/.cache/parfocal-rigs}/nvidia/pyXYZ.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${1:-$root/.venv/bin/python}
[ -x "$(command -v "$python" || true)" ] || python=python3
cache=${PARFOCAL_RIGS:-$HOME/.cache/parfocal-rigs}/nvidia
bindings=(cu12:10.3.0 cu12:10.16.1.11 cu13:11.4.0.106)
pycuda=2026.1
pycuda_sha256=759516160628ba06f32ce7e563e3f5b9214691dc9528a03ea99ea1073f4e14ba
cuda_headers=(nvidia-cuda-runtime-cu12==12.6.77 nvidia-cuda-profiler-api-cu12==12.9.79)
no_device='"no CUDA-capable device is detected"'
below_pycuda=(mako markupsafe platformdirs pytools siphash24 typing-extensions)

tag=$("$python" -c 'import sys; print("py%d%d" % sys.version_info[:2])')
place=$cache/$tag
log=$cache/$tag.log
pip=("$python" -m pip --disable-pip-version-check -qq)

# The tests read the reason and skip, or fail where it begins with "broken".
ends() { echo "$2" >"$cache/$tag.reason"; echo "NVIDIA's bindings for $tag: $2"; exit "$1"; }
cannot() { ends 77 "cannot be prepared here: $1"; }
broken() { tail -n 30 "$log" | cut -c1-300; ends 1 "broken: $1 (see $log)"; }

download() { (cd "$work" && "${pip[@]}" download --no-deps "$@") >>"$log" 2>&1; }

# shared SONAME OUT [SYMBOL...]: a library whose every function answers 100, CUDA_ERROR_NO_DEVICE.
shared() {
  local soname=$1 out=$2 symbol
  shift 2
  for symbol; do
    case $symbol in
      cuGetErrorString) echo "int $symbol(int e, const char **t) { *t = $no_device; return 0; }" ;;
      cuGetErrorName) echo "int $symbol(int e, const char **t) { *t = \"CUDA_ERROR_NO_DEVICE\"; return 0; }" ;;
      cu*) echo "int $symbol(void) { return 100; }" ;;
      *) echo "void *$symbol(void) { return 0; }" ;;
    esac
  done | g++ -x c -w -shared -fPIC -Wl,-soname,"$soname" -o "$out" - >>"$log" 2>&1
}

undefined() { nm -D --undefined-only "$1" | awk '{ print $NF }' | sed 's/@.*//' | grep -E "$2" | sort -u; }

tensorrt() {
  local flavour=${1%%:*} version=${1#*:} made library lib
  made=$place/tensorrt-$version
  if ! download --only-binary=:all: -d "wheels-$version" "tensorrt-$flavour-bindings==$version"; then
    # Not every version has a wheel for every Python and machine; who knows no version at all has no network.
    if tail -n 3 "$log" | grep -q 'from versions: [0-9]'; then return 0; fi
    cannot "TensorRT's bindings $version cannot be downloaded for $tag on $(uname -m) (see $log)"
  fi
  mkdir -p "$made/lib"
  "$python" -m zipfile -e "$work/wheels-$version"/*.whl "$made"
  library=$(find "$made" -name 'tensorrt.so')
  mapfile -t symbols < <(undefined "$library" '^(create|get|init)[A-Z]')
  for lib in $(readelf -d "$library" | sed -n 's/.*\[\(libnv.*\)\]/\1/p'); do
    shared "$lib" "$made/lib/$lib" "${symbols[@]}" || broken "the stub of $lib does not compile"
  done
}

cuda_driver() {
  local made=$place/pycuda source=$work/pycuda-$pycuda extension wheel
  download --only-binary=:all: -d "$work/cuda" "${cuda_headers[@]}" || cannot "CUDA's headers cannot be downloaded"
  echo "pycuda==$pycuda --hash=sha256:$pycuda_sha256" >"$work/pins"
  download --no-binary pycuda -r pins -d source || cannot "pycuda's source cannot be downloaded"
  download --only-binary=:all: -d "$work/below" "${below_pycuda[@]}" || cannot "what pycuda needs cannot be downloaded"
  mkdir -p "$made/lib" "$place/include"
  for wheel in "$work"/cuda/*.whl; do "$python" -m zipfile -e "$wheel" "$work/headers"; done
  find "$work/headers" -type d -name include -exec cp -r {}/. "$place/include/" \;
  for wheel in "$work"/below/*.whl; do "$python" -m zipfile -e "$wheel" "$made"; done
  tar -xf "$work"/source/pycuda-*.tar.gz -C "$work"
  mkdir "$work/link"
  shared libcuda.so.1 "$work/link/libcuda.so" || broken "an empty library does not compile"
  # Linked last, and whether used or not: which functions the driver must have is read off what was built.
  cat >"$source/siteconf.py" <<SITECONF
CUDA_ROOT = "$work"
CUDA_INC_DIR = ["$place/include"]
CUDADRV_LIB_DIR = ["$work/link"]
CUDA_ENABLE_CURAND = False
CXXFLAGS = ["-O0", "-g0", "-w"]
LDFLAGS = ["-L$work/link", "-Wl,--no-as-needed", "-lcuda"]
SITECONF
  PIP_CONSTRAINT=$root/constraints/$tag.txt "${pip[@]}" install --no-deps --target "$made" "$source" \
    >>"$log" 2>&1 || broken "pycuda does not build"
  extension=$(find "$made/pycuda" -name '_driver*.so')
  mapfile -t symbols < <({
    undefined "$extension" '^cu[A-Z]'
    grep -oE '^ *(CUresult CUDAAPI|#define) +cu[A-Z]\w+.*' "$place/include/cuda.h" | grep -oE '\bcu[A-Z]\w+' || true
  } | sort -u)
  shared libcuda.so.1 "$made/lib/libcuda.so.1" "${symbols[@]}" || broken "the stub of libcuda does not compile"
}

mkdir -p "$cache"
for tool in g++ nm readelf flock; do
  command -v $tool >/dev/null || cannot "no $tool; apt install g++ binutils util-linux"
done
exec 9>"$cache/$tag.lock"
flock 9
recipe=$(sha256sum <"${BASH_SOURCE[0]}" | cut -c1-16)
[ "$(cat "$place/recipe" 2>/dev/null)" != "$recipe" ] || exit 0
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -f "$headers/Python.h" ] || cannot "no $headers/Python.h; apt install python3-dev"

echo "Preparing NVIDIA's bindings for $tag in $place; the first time takes two minutes ..."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
: >"$log"
rm -rf "$place"
mkdir -p "$place"
for one in "${bindings[@]}"; do tensorrt "$one"; done
cuda_driver
echo "$recipe" >"$place/recipe"
rm -f "$cache/$tag.reason"
