#!/bin/sh
# The picamera driver on real picamera2 and libcamera, without a camera: libcamera's "virtual" pipeline draws one.
#
#   picamera.sh [CACHE]            one line a check; 0 all good, 1 not, 77 cannot run here
#   picamera.sh [CACHE] --record   writes picamera2_signatures.json anew
#
# A trixie is built once below CACHE (1.4 GB; default $PARFOCAL_RIGS, or ~/.cache/parfocal-rigs), and used from then on.
set -eu

record=
cache=${PARFOCAL_RIGS:-$HOME/.cache/parfocal-rigs}
for argument; do
    if [ "$argument" = --record ]; then record=yes; else cache=$argument; fi
done
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
mirror=http://deb.debian.org/debian
log=$cache/picamera.log

cannot() { echo "cannot run here: $1"; exit 77; }
broken() { echo "FAIL $1; the end of $log:"; tail -n 40 "$log"; exit 1; }

# Whatever is mounted below stays in a mount namespace of its own, and ends with it.
apart() { unshare --mount --propagation private "$@"; }
inside() { apart chroot "$@"; }

[ "$(id -u)" = 0 ] || cannot "it takes root to make a chroot"
case $(uname -m) in
x86_64 | aarch64) ;;
*) cannot "libcamera's packages are looked for on x86_64 and aarch64 only, this is $(uname -m)" ;;
esac
mkdir -p "$cache"
exec 9> "$cache/picamera.lock"
flock 9
: > "$log"

# The name changes with the recipe in build().
root=$cache/picamera-trixie-$(uname -m)-1

build() {
    part=$root.part
    if grep -q " $part" /proc/self/mounts; then broken "something is mounted below $part: unmount it"; fi
    rm -rf --one-file-system "$part"
    apart debootstrap --variant=minbase --include=ca-certificates trixie "$part" "$mirror"
    cp /etc/resolv.conf "$part/etc/resolv.conf"
    # Where a proxy signs for the world, only the host knows its certificate.
    if [ -s /etc/ssl/certs/ca-certificates.crt ]; then
        cp /etc/ssl/certs/ca-certificates.crt "$part/etc/ssl/certs/ca-certificates.crt"
    fi
    inside "$part" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        gcc libc6-dev python3-dev python3-venv \
        python3-libcamera python3-numpy python3-pydantic \
        python3-av python3-jsonschema python3-libarchive-c python3-piexif python3-pil python3-prctl python3-tqdm
    inside "$part" python3 -m venv --system-site-packages /opt/venv
    inside "$part" /opt/venv/bin/pip install --no-cache-dir picamera2
    inside "$part" apt-get clean
    mv "$part" "$root"
}

if [ ! -d "$root" ]; then
    if ! command -v debootstrap > /dev/null; then
        command -v apt-get > /dev/null || cannot "there is neither debootstrap nor apt-get to install it"
        { apt-get update && apt-get install -y --no-install-recommends debootstrap debian-archive-keyring; } \
            > "$log" 2>&1 || cannot "debootstrap cannot be installed, see $log"
    fi
    python3 -c "import urllib.request as u; u.urlopen('$mirror/dists/trixie/Release', timeout=20)" \
        > "$log" 2>&1 || cannot "$mirror cannot be reached"
    # In a shell of its own, for "set -e" is off where a function's outcome is asked for.
    (set -e; build) >> "$log" 2>&1 &
    wait $! || broken "the chroot could not be made"
fi

rig=$root/opt/rig
rm -rf --one-file-system "$rig"
mkdir -p "$rig/tests" "$root/usr/share/libcamera/pipeline/virtual"
tar -C "$repository" --exclude=__pycache__ -cf - firmware | tar -C "$rig" -xf -
cp "$here/picamera_check.py" "$here/../record_picamera2.py" "$here/../picamera2_signatures.json" "$rig/tests/"
cp "$here/dmaheap_shim.c" "$rig/"
cp "$here/virtual.yaml" "$root/usr/share/libcamera/pipeline/virtual/virtual.yaml"
inside "$root" gcc -Wall -Wextra -Werror -shared -fPIC -o /opt/rig/shim.so /opt/rig/dmaheap_shim.c -ldl \
    >> "$log" 2>&1 || broken "dmaheap_shim.c does not compile"

check() {
    inside "$root" env PYTHONPATH=/opt/rig:/opt/rig/tests PYTHONDONTWRITEBYTECODE=1 LD_PRELOAD=/opt/rig/shim.so \
        LIBCAMERA_LOG_LEVELS='*:ERROR' timeout 300 /opt/venv/bin/python /opt/rig/tests/picamera_check.py "$@"
}

if [ "$record" ]; then
    check --record > "$here/../picamera2_signatures.json.new" 2>> "$log" || broken "nothing was recorded"
    mv "$here/../picamera2_signatures.json.new" "$here/../picamera2_signatures.json"
else
    check 2>> "$log" || broken "the driver failed on real picamera2"
fi
