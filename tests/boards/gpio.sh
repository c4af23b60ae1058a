#!/usr/bin/env bash
# Our step_dir axis on real GPIO chips in two emulated arm64 boards, with a stage outside that counts the pulses.
#
#   gpio.sh [virt] [raspi3b]
#
# Needs Debian (or apt and Debian's keyring), QEMU 7.2 or later and the network once; as root it installs what is
# missing. Prints a line a check and how many passed; 77 means that it cannot run here. What is downloaded and built
# (150 MB) stays in ${PARFOCAL_RIGS:-~/.cache/parfocal-rigs}/gpio.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${PARFOCAL_RIGS:-$HOME/.cache/parfocal-rigs}/gpio
log=$cache/log
mirror=http://deb.debian.org/debian
# The guest is Debian 12 on any host: lgpio has a wheel for its Python.
suite=bookworm
python_tag=3.11
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
tools=(qemu-system-aarch64:qemu-system-arm cpio:cpio fdtput:device-tree-compiler)
debs=(busybox-static libc6 libgcc-s1 libstdc++6 zlib1g libffi8 libexpat1 libbz2-1.0 liblzma5 libuuid1 libssl3
  "libpython$python_tag-minimal" "libpython$python_tag-stdlib" "python$python_tag-minimal")
wheels=(numpy pydantic 'gpiozero>=2.0.1' 'lgpio>=0.2' 'gpiod>=2.2')
patience_s=240

work=$(mktemp -d)
guest=
finish() {
  [ -z "$guest" ] || kill "$guest" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

cannot() { echo "cannot run here: $1"; exit 77; }

# A step that ends at its first fault: bash minds "set -e" nowhere in what "||" follows.
apart() {
  (set -e; "$@") >>"$log" 2>&1 &
  wait $!
}

tools_missing() {
  local pair
  for pair in "${tools[@]}"; do command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"; done
}

install_tools() {
  local missing
  missing=$(tools_missing | xargs)
  [ -n "$missing" ] || return 0
  command -v apt-get >/dev/null || cannot "no $missing, and no apt to install it"
  [ "$(id -u)" = 0 ] || cannot "as root: apt install $missing"
  # shellcheck disable=SC2086
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 $missing; } >>"$log" 2>&1 || cannot "apt cannot install $missing (see $log)"
}

# apt with a state of its own: it knows arm64 only, and leaves this machine's packages and sources alone.
guest_apt() {
  apt-get -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root \
    -o Dir::State="$work/apt" -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt/cache" \
    -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null -o Acquire::Languages=none "$@"
}

download() {
  local python kernel
  mkdir -p "$work"/apt/lists/partial "$work"/apt/cache/archives/partial "$work"/debs "$work"/wheels
  : >"$work/apt/status"
  echo "deb [arch=arm64 signed-by=$keyring] $mirror $suite main" >"$work/apt/sources.list"
  guest_apt update
  kernel=$(guest_apt install -s -o APT::Install-Recommends=false linux-image-arm64 |
    sed -n 's/^Inst \(linux-image-[0-9][^ ]*\) .*/\1/p')
  (cd "$work/debs" && guest_apt download "${debs[@]}" "$kernel")
  for python in "$root/.venv/bin/python" python3; do "$python" -m pip --version && break; done
  "$python" -m pip download -qq --only-binary=:all: --implementation cp --python-version "$python_tag" \
    --platform manylinux_2_34_aarch64 --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
    -c "$root/constraints/py${python_tag/./}.txt" -d "$work/wheels" "${wheels[@]}"
}

# Everything but our own code: the kernel, the Pi's device tree, and base.cpio.
build() {
  local guest_root=$work/root made=$work/made file
  mkdir -p "$made" "$guest_root"/{proc,sys,dev,tmp,app,site}
  for file in "$work"/debs/*.deb; do
    case $file in
      */linux-image-*) dpkg-deb --fsys-tarfile "$file" | tar -x -C "$work" --wildcards \
        './boot/vmlinuz-*' '*/broadcom/bcm2837-rpi-3-b.dtb' ;;
      *) dpkg-deb -x "$file" "$guest_root" ;;
    esac
  done
  for file in "$work"/wheels/*.whl; do python3 -m zipfile -e "$file" "$guest_root/site"; done
  (cd "$guest_root" && rm -rf usr/share etc usr/lib/*/gconv usr/lib/python3*/{test,pydoc_data,idlelib,lib2to3})
  find "$guest_root/site" -type d -name tests -prune -exec rm -rf {} +
  # Saves the emulated processor 20 s a run; another Python's files would be of no use to the guest's.
  if python3 -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$python_tag')"; then
    python3 -m compileall -q "$guest_root/site" "$guest_root/usr/lib/python$python_tag" || true
  fi
  cat >"$guest_root/init" <<INIT
#!/bin/busybox sh
export PATH=/bin:/usr/bin PYTHONPATH=/app:/site HOME=/tmp
busybox mount -t proc p /proc; busybox mount -t sysfs s /sys; busybox mount -t devtmpfs d /dev
exec </dev/console >/dev/console 2>&1
# Read only, as a service's working folder may be.
cd /proc; echo
python$python_tag /app/gpio_check.py
echo "DONE \$?"
busybox poweroff -f
INIT
  chmod +x "$guest_root/init"
  (cd "$guest_root" && find . | cpio -o -H newc -R 0:0) >"$made/base.cpio"
  mv "$work"/boot/vmlinuz-* "$made/vmlinuz"
  mv "$work"/usr/lib/linux-image-*/broadcom/bcm2837-rpi-3-b.dtb "$made/raspi3b.dtb"
  # The Pi's firmware tells its revision, QEMU does not; gpiozero asks for it. a02082 is a Pi 3B.
  fdtput -cp "$made/raspi3b.dtb" /system
  fdtput -t x "$made/raspi3b.dtb" /system linux,revision a02082
  rm -rf "$cache/made"
  mv "$made" "$cache/made"
}

run_guest() {
  local bench=$1 ends=$((SECONDS + patience_s)) counter
  local trace=$work/$bench.trace socket=$work/$bench.socket serial=$cache/$bench.serial
  local machine
  case $bench in
    virt) machine=(-M virt -cpu cortex-a72 -smp 2 -m 1G -serial "file:$serial" -trace pl061_set_output
      -append "console=ttyAMA0 quiet loglevel=0 BENCH=$bench") ;;
    raspi3b) machine=(-M raspi3b -dtb "$cache/made/raspi3b.dtb" -serial null -serial "file:$serial"
      -trace memory_region_ops_write -append "console=ttyS1,115200 quiet loglevel=0 BENCH=$bench") ;;
  esac
  : >"$serial"
  mkfifo "$trace"
  python3 "$here/count_pulses.py" "$bench" "$trace" "$socket" "$serial" >"$work/$bench.checks" 2>>"$log" &
  counter=$!
  # "-msg timestamp" puts the time into every line of the trace.
  timeout -k 5 $((patience_s + 30)) qemu-system-aarch64 "${machine[@]}" -kernel "$cache/made/vmlinuz" -initrd "$work/initrd" -display none -nic none \
    -monitor none -no-reboot -accel tcg,thread=multi -msg timestamp=on -D "$trace" \
    -qtest "unix:$socket,server=on,wait=off" -qtest-log none >>"$log" 2>&1 &
  guest=$!
  while kill -0 "$guest" 2>/dev/null && kill -0 "$counter" 2>/dev/null && ! grep -q '^DONE' "$serial" &&
    [ $SECONDS -lt $ends ]; do sleep 0.2; done
  sleep 0.5
  # The Pi does not power off by itself.
  kill "$guest" 2>/dev/null || true
  wait "$guest" 2>/dev/null || true
  guest=
  # A counter that waits for a QEMU which never began would wait for ever.
  exec 8<>"$trace"; exec 8>&-
  wait "$counter" || echo "FAIL $bench: the counter broke" >>"$work/$bench.checks"
  grep -q '^DONE 0' "$serial" || echo "FAIL $bench: the guest did not come to its end" >>"$work/$bench.checks"
  { echo "== $bench"; tr -d '\r' <"$serial"; } >>"$log"
  tee -a "$work/checks" <"$work/$bench.checks"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
: >"$log"
install_tools
recipe=$(sed -n '/^mirror=/,/^wheels=/p;/^download/,/^}/p;/^build/,/^}/p' "$0" |
  cat - "$root/constraints/py${python_tag/./}.txt" | sha256sum | cut -c1-16)
if [ "$(cat "$cache/recipe" 2>/dev/null)" != "$recipe" ]; then
  [ -f $keyring ] || cannot "no $keyring (package debian-archive-keyring)"
  apart download || cannot "the guest's packages cannot be downloaded (see $log)"
  apart build || { echo "FAIL the guest cannot be built"; tail -20 "$log"; exit 1; }
  echo "$recipe" >"$cache/recipe"
fi

mkdir -p "$work/own/app"
cp -r "$root/firmware" "$here/gpio_bench.py" "$here/gpio_check.py" "$work/own/app/"
find "$work/own" -name __pycache__ -prune -exec rm -rf {} +
(cd "$work/own" && find . | cpio -o -H newc -R 0:0 2>>"$log") | cat "$cache/made/base.cpio" - >"$work/initrd"

: >"$work/checks"
for bench in ${*:-virt raspi3b}; do run_guest "$bench"; done

count() { grep -c "^$1" "$work/checks" || true; }
failed=$(count FAIL)
[ "$failed" = 0 ] || { echo "--- $log"; tail -60 "$log"; }
echo "$(count ok) passed, $failed failed, $(count skip) skipped"
[ "$failed" = 0 ]
