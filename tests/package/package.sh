#!/usr/bin/env bash
# A target's package, built and installed in a fresh Debian of its own, without network.
#
#   package.sh TARGET
#
# Needs root, Debian (or apt and Debian's keyring), and the network once. An arm64 target on another machine runs under
# qemu-user-static, which stays registered with the kernel. Prints a line a check and how many passed; 77 means that it
# cannot run here. Roots and wheels stay in ${PARFOCAL_RIGS:-~/.cache/parfocal-rigs}. Of JetPack's Ubuntu there is no
# root: its package is built and read, not installed.
set -euo pipefail

target=$1
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
cache=${PARFOCAL_RIGS:-$HOME/.cache/parfocal-rigs}/package
log=$cache/$target.log
mirror=http://deb.debian.org/debian
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
case $target in
  bookworm_amd64) suite=bookworm architecture=amd64 suffix=deb12 extra='' ;;
  bookworm_arm64) suite=bookworm architecture=arm64 suffix=deb12 extra='' ;;
  trixie_arm64) suite=trixie architecture=arm64 suffix=deb13 extra=,python3-lgpio ;;
  jetpack6) suite='' architecture=arm64 suffix=jetpack6 extra='' ;;
  *) echo "cannot run here: no rig for $target"; exit 77 ;;
esac
include=python3,python3-venv,systemd,udev,passwd,init-system-helpers,libgcc-s1,libstdc++6$extra
older=0.0.1 broken=0.0.2

cannot() { echo "cannot run here: $1"; exit 77; }

# --- outside: what takes the network -----------------------------------------------------------------------------

foreign() { [ "$(dpkg --print-architecture)" != "$architecture" ]; }

find_python() {
  local python
  for python in "$repository/.venv/bin/python" python3; do
    "$python" -c 'import sys, pip
if sys.version_info < (3, 11): import tomli' 2>>"$log" && { command -v "$python"; return; }
  done
  cannot "neither .venv nor python3 has pip (and tomli before Python 3.11): make setup"
}

install_tools() {
  local missing=
  command -v debootstrap >/dev/null || missing="$missing debootstrap"
  [ -f $keyring ] || missing="$missing debian-archive-keyring"
  foreign && ! command -v qemu-aarch64-static >/dev/null && missing="$missing qemu-user-static"
  [ -n "$missing" ] || return 0
  # shellcheck disable=SC2086
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 $missing; } >>"$log" 2>&1 || cannot "apt cannot install$missing (see $log)"
}

# Where systemd runs, installing qemu-user-static does this.
register_qemu() {
  local kernel=/proc/sys/fs/binfmt_misc
  foreign || return 0
  [ -e $kernel/register ] || mount -t binfmt_misc binfmt_misc $kernel 2>>"$log" ||
    cannot "the kernel cannot be told of qemu (binfmt_misc)"
  [ -e $kernel/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >$kernel/register 2>>"$log" ||
    cannot "the kernel takes no /usr/lib/binfmt.d/qemu-aarch64.conf"
}

make_root() {
  local recipe
  recipe=$(echo "1 $suite $architecture $include" | sha256sum | cut -c1-12)
  base=$cache/$suite-$architecture-$recipe.tar.gz
  [ ! -f "$base" ] || return 0
  rm -f "$cache/$suite-$architecture"-*.tar.gz
  unshare --mount --propagation private debootstrap --variant=minbase --arch="$architecture" --include="$include" \
    "$suite" "$work/root" $mirror >>"$log" 2>&1 || cannot "debootstrap fails (see $log)"
  rm -f "$work"/root/var/cache/apt/archives/*.deb
  tar -C "$work/root" --exclude='./proc/*' --exclude='./sys/*' -I 'gzip -1' -cf "$base.part" .
  mv "$base.part" "$base"
  rm -rf --one-file-system "$work/root"
}

outside() {
  [ "$(id -u)" = 0 ] || cannot "it takes root to make a chroot"
  command -v apt-get >/dev/null || cannot "it takes apt-get and dpkg"
  mkdir -p "$cache"
  exec 9>"$cache/$target.lock"
  flock 9
  : >"$log"
  python=$(find_python) || { echo "$python"; exit 77; }
  work=$(mktemp -d)
  trap 'rm -rf --one-file-system "$work"' EXIT
  base=
  if [ -n "$suite" ] && [ "$target" != jetpack6 ]; then
    install_tools
    register_qemu
    make_root
  fi
  "$python" "$repository/packaging/build_deb.py" --fetch "$target" >>"$log" 2>&1 || {
    tail -n 3 "$log"
    cannot "the wheels cannot be had (see $log)"
  }
  # No network, no mounts and no process outlive this.
  PACKAGE_RIG="$python $work $base" unshare --mount --net --pid --fork --kill-child --propagation private \
    bash "$here/package.sh" "$target"
}

# --- inside: no network from here on -----------------------------------------------------------------------------

check() {
  local what=$1
  shift
  echo "-- $what: $*" >>"$log"
  if "$@" >>"$log" 2>&1; then say ok "$what"; else say FAIL "$what"; fi
}
say() { printf '%-4s %s\n' "$1" "$2" | tee -a "$work/checks"; }
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 "$@"; }
unprivileged() { chroot --userspec=nobody:nogroup "$root" env -i PATH=/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 "$@"; }
apt() {
  inside DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends -o APT::Sandbox::User=root "$@" 2>&1 |
    tee "$work/said"
}
fails() { ! "$@"; }
said() { tr '\n' ' ' <"$work/said" | grep -qF "$1" || { cat "$work/said"; return 1; }; }
current() { [ "$(readlink "$root/opt/parfocal/current")" = "venvs/$1+$suffix" ]; }
only_environment() { [ "$(ls "$root/opt/parfocal/venvs")" = "$1+$suffix" ]; }
works_as() { unprivileged parfocal doctor --json | python3 -c 'import json, sys
said = json.load(sys.stdin); sys.exit(not (said["simulated_board_works"] and said["parfocal"] == sys.argv[1]))' "$1"; }
service_pid() { cat "$root/run/stand-in/pid"; }
answers() { unprivileged parfocal position --at 127.0.0.1:50051; }
same_service() { [ "$(service_pid)" = "$1" ] && kill -0 "$1"; }
# shellcheck disable=SC2016 # dpkg-query's own variable
version_installed() { inside dpkg-query -W -f '${Version}' parfocal; }
listing() {
  (cd "$root" && find . -path ./proc -prune -o -path ./sys -prune -o -path ./run/stand-in -prune \
    -o -path ./tmp -prune -o -path './var/lib/dpkg/*' -prune -o -path './var/log/*' -prune \
    -o -path './var/cache/apt*' -prune -o -path './var/lib/apt/*' -prune -o -print) | sort
}
as_before() { listing | diff "$work/before" - >"$work/remains" || { cat "$work/remains"; return 1; }; }

build() {
  "$python" "$repository/packaging/build_deb.py" --out "$work/debs" "$@" "$target" >>"$log" 2>&1
}

# The older package under the number in between, with a module of ours missing.
break_package() {
  local tree=$work/broken
  dpkg-deb -R "$work/debs/parfocal_$older+${suffix}_$architecture.deb" "$tree"
  sed -i "s/$older/$broken/g" "$tree/DEBIAN/postinst" "$tree/DEBIAN/control"
  mv "$tree/usr/lib/parfocal/wheels/$older+$suffix" "$tree/usr/lib/parfocal/wheels/$broken+$suffix"
  sed -i "s/==$older\$/==$broken/" "$tree/usr/lib/parfocal/wheels/$broken+$suffix/requirements.txt"
  python3 - "$tree/usr/lib/parfocal/wheels/$broken+$suffix" "$older" "$broken" <<'PYTHON'
import sys, zipfile
from pathlib import Path
folder, older, broken = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
wheel = next(folder.glob("parfocal-*.whl"))
with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(folder / wheel.name.replace(older, broken), "w") as new:
    for name in old.namelist():
        if name != "firmware/frames.py":
            content = old.read(name)
            if name.endswith("METADATA"):
                content = content.replace(f"Version: {older}".encode(), f"Version: {broken}".encode())
            new.writestr(name.replace(f"parfocal-{older}", f"parfocal-{broken}"), content)
wheel.unlink()
PYTHON
  dpkg-deb --root-owner-group -Zgzip -z1 -b "$tree" "$work/debs" >>"$log"
  rm -r "$tree"
}

deb() { echo "$work/debs/parfocal_$1+${suffix}_$architecture.deb"; }
offer() { cp "$(deb "$1")" "$root/tmp/"; echo "/tmp/parfocal_$1+${suffix}_$architecture.deb"; }

start_root() {
  root=$work/root
  mkdir -p "$root"
  tar -C "$root" -xf "$base"
  mount -t proc proc "$root/proc"
  # Not for a foreign one: ONNX Runtime on arm64 breaks down over the sysfs of another processor.
  foreign || mount -t sysfs -o ro sysfs "$root/sys"
  mount -t tmpfs tmpfs "$root/tmp"
  chmod 1777 "$root/tmp"
  # A disk of its own, which can be made to be full.
  mount -t tmpfs -o size=4g tmpfs "$root/opt"
  chmod 755 "$root/opt"
  mkdir -p "$root/run/systemd/system" "$root/run/stand-in"
  inside dpkg-divert --quiet --local --rename --divert /usr/bin/systemctl.real --add /usr/bin/systemctl >>"$log"
  install -m 755 "$here/systemctl" "$root/usr/bin/systemctl"
  ip link set lo up
}

newer() { "$python" -c 'import sys; sys.path.insert(0, sys.argv[1]); import deb_wheels
print(deb_wheels.project()["version"])' "$repository/packaging"; }

install_older() {
  listing >"$work/before"
  check "$older installs without network" apt install "$(offer $older)"
  check "its environment is the one in use" current $older
  check "the service's user exists" inside getent passwd parfocal
  check "the unit is enabled" test -L "$root/etc/systemd/system/multi-user.target.wants/parfocal.service"
  check "the service was started and answers" answers
  check "parfocal doctor works as an unprivileged user, and says $older" works_as $older
}

change_what_users_change() {
  sed -i 's/^board = .*/board = "simulated_tiny"/' "$root/etc/parfocal/parfocal.toml"
  echo 'name = "mine"' >"$root/etc/parfocal/my_board.toml"
  echo bundle >"$root/var/lib/parfocal/models/mine.parfocal"
  echo state >"$root/var/lib/parfocal/mine.json"
}

kept() {
  grep -q '^board = "simulated_tiny"' "$root/etc/parfocal/parfocal.toml" &&
    [ -f "$root/etc/parfocal/my_board.toml" ] && [ ! -e "$root/etc/parfocal/parfocal.toml.dpkg-old" ] &&
    [ "$(cat "$root/var/lib/parfocal/models/mine.parfocal")" = bundle ] && [ -f "$root/var/lib/parfocal/mine.json" ]
}

# still_older WHAT PID: the older version serves, by the same process.
still_older() {
  check "$1: $older is in use" current $older
  check "$1: its environment is the only one" only_environment $older
  check "$1: the service never stopped" same_service "$2"
}

upgrade_to_broken() {
  local pid
  pid=$(service_pid)
  check "a broken $broken is refused" fails apt install "$(offer $broken)"
  check "it says what failed" said "parfocal $broken+$suffix is not in service: its environment was built, but fails"
  check "and why" said "(ModuleNotFoundError: No module named 'firmware.frames')"
  check "and what is in use" said "parfocal $older+$suffix is in use as before."
  still_older "after the broken one" "$pid"
  check "parfocal doctor still says $older" works_as $older
}

upgrade_on_a_full_disk() {
  local pid
  pid=$(service_pid)
  mount -o remount,size="$(($(df -m --output=used "$root/opt" | tail -n 1) + 60))m" "$root/opt"
  check "$new is refused where there is too little room" fails apt install "$(offer "$new")"
  check "it says so" said "parfocal $new+$suffix is not in service: there is too little room in /opt/parfocal"
  still_older "after too little room" "$pid"
  mount -o remount,size=4g "$root/opt"
  fill_the_disk &
  check "$new is refused when the disk fills up meanwhile" fails configure
  kill $! 2>/dev/null || true
  wait $! || true
  check "it says so" said "No space left on device"
  mount -o remount,size=4g "$root/opt"
  still_older "after a full disk" "$pid"
}

configure() { inside dpkg --configure parfocal 2>&1 | tee "$work/said"; }

# As soon as the new environment has its pip.
fill_the_disk() {
  until [ -x "$root/opt/parfocal/venvs/$new+$suffix/bin/pip" ]; do sleep 0.2; done
  mount -o remount,size="$(($(df -m --output=used "$root/opt" | tail -n 1) + 60))m" "$root/opt"
}

upgrade_that_does_not_serve() {
  echo "venvs/$new+$suffix" >"$root/run/stand-in/$1"
  check "$new is refused when its service $1" fails configure
  check "it says so" said "$2"
  rm "$root/run/stand-in/$1"
  check "after that $older is in use" current $older
  check "after that $older answers" answers
}

upgrade() {
  check "$new is put into service once all is well (dpkg --configure)" configure
  check "its environment is the one in use" current "$new"
  check "it is the only environment" only_environment "$new"
  check "only its wheels are kept" test "$(ls "$root/usr/lib/parfocal/wheels")" = "$new+$suffix"
  check "what the user changed is kept" kept
  check "the service answers" answers
  check "parfocal doctor says $new" works_as "$new"
  check "the server says $new" serving "$new"
  check "the package says $new" test "$(version_installed)" = "$new+$suffix"
  check "the demo focuses, as an unprivileged user" focuses
}

serving() {
  unprivileged /opt/parfocal/current/bin/python -c 'import sys
from edge_app.client import Client
with Client("127.0.0.1:50051") as client: said = client.describe().serving_version
sys.exit(said != sys.argv[1] and said)' "$1"
}

focuses() {
  unprivileged parfocal demo --runs 1 --board simulated_tiny --out /tmp/demo >"$work/said" 2>&1 && said "FOCUSED OK"
}

go_back() {
  check "the older package goes back" apt install --allow-downgrades "$(offer $older)"
  check "$older is in use" current $older
  check "its environment is the only one" only_environment $older
  check "what the user changed is kept" kept
}

again() {
  check "the same package installs again" apt install --reinstall "$(offer $older)"
  check "its environment is a new one" test "$(ls "$root/opt/parfocal/venvs")" = "$older+$suffix.again"
}

dpkg_arguments() {
  local info=$root/var/lib/dpkg/info/parfocal words
  for words in "postinst abort-upgrade 1" "postinst abort-remove" "postinst abort-deconfigure in-favour x 1" \
    "prerm upgrade 1" "prerm failed-upgrade 1" "postrm upgrade 1" "postrm failed-upgrade 1" "postrm abort-install" \
    "postrm abort-upgrade 1" "postrm disappear x 1"; do
    # shellcheck disable=SC2086
    inside "${info#"$root"}."$words || { echo "$words"; return 1; }
  done
  fails inside "${info#"$root"}.postinst" sing && answers
}

remove_and_purge() {
  local pid
  check "what dpkg calls the scripts with when it undoes something is harmless" dpkg_arguments
  pid=$(service_pid)
  check "it is removed" apt remove parfocal
  check "the service ended" fails kill -0 "$pid"
  check "its environments are gone" test ! -e "$root/opt/parfocal"
  check "configuration, models and state are kept" kept
  check "it is purged" apt purge parfocal
  check "its user and group are gone" fails grep -q '^parfocal:' "$root/etc/passwd" "$root/etc/group"
  check "no link is left in /etc/systemd" test -z "$(find "$root/etc/systemd" -name 'parfocal*')"
  check "no file is left" as_before
}

read_package() {
  local package=$1
  check "its control file is read" dpkg-deb --field "$package" Depends
  check "its scripts are shell" scripts_parse "$package"
  if command -v lintian >/dev/null; then
    check "lintian finds no error" lintian --allow-root --fail-on error "$package"
  else
    say skip "lintian is not installed"
  fi
}

scripts_parse() {
  local name
  dpkg-deb --control "$1" "$work/control"
  for name in postinst prerm postrm; do
    sh -n "$work/control/$name" || return 1
    ! command -v shellcheck >/dev/null || shellcheck "$work/control/$name" || return 1
  done
}

main() {
  read -r python work base <<<"$PACKAGE_RIG"
  : >"$work/checks"
  new=$(newer)
  check "the package is built without network" build
  read_package "$(deb "$new")"
  cp "$(deb "$new")" "$work/first.deb"
  check "building it again gives the same bytes" build
  check "they are the same" cmp "$(deb "$new")" "$work/first.deb"
  if [ -n "$base" ]; then
    build --as-version $older
    break_package
    start_root
    install_older
    change_what_users_change
    upgrade_to_broken
    upgrade_on_a_full_disk
    upgrade_that_does_not_serve refuses "the service does not start with it"
    if foreign; then
      say skip "a service that does not stay up, the same package again: bookworm_amd64 tries them"
    else
      upgrade_that_does_not_serve dies "the service starts with it, but does not stay up for 10 s"
    fi
    upgrade
    go_back
    foreign || again
    remove_and_purge
  else
    say skip "no root of this distribution can be had: it was not installed"
  fi
  stat --format '     %s bytes: %n' "$(deb "$new")"
  failed=$(grep -c ^FAIL "$work/checks" || true)
  [ "$failed" = 0 ] || { echo "--- $log"; tail -n 60 "$log"; }
  echo "$(grep -c ^ok "$work/checks" || true) passed, $failed failed, $(grep -c ^skip "$work/checks" || true) skipped"
  [ "$failed" = 0 ]
}

if [ -n "${PACKAGE_RIG:-}" ]; then main; else outside; fi
