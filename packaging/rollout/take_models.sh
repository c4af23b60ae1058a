#!/bin/sh
# Reads a tar from stdin with the folder repository/ and the file EXPECT (NAME@VERSION, what shall serve in the end), and
# has this board update from it, as it would from a web server or a stick: what is in there is believed only as far as
# the board's own root of trust says. Fails unless that version serves.
# Mender's module and RAUC's handler run it as root; nothing of the tar is unpacked or read as root.
set -eu

config=/etc/parfocal/parfocal.toml
most_kb=524288
folder=$(mktemp -d /var/tmp/parfocal-models.XXXXXX)
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM HUP

as_service() { runuser -u parfocal -- "$@"; }

fail() {
    echo "error: $1" >&2
    exit 1
}

chown parfocal:parfocal "$folder"
# A tar that is not compressed unpacks to no more bytes than it has. The other half of what is free is the board's.
free_kb=$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')
[ "$((free_kb / 2))" -ge "$most_kb" ] || most_kb=$((free_kb / 2))
failed=0
head -c "$((most_kb * 1024))" | as_service tar -x --no-same-permissions -C "$folder" -f - || failed=$?
[ "$(head -c 1 | wc -c)" -eq 0 ] ||
    fail "the payload is larger than $most_kb kB, the bound or half of what is free in /var/tmp; prune it, or make room"
[ "$failed" -eq 0 ] || fail "the payload is no whole tar; make it anew"

expect=
if [ -f "$folder/EXPECT" ] && [ ! -L "$folder/EXPECT" ]; then
    expect=$(as_service head -c 200 "$folder/EXPECT" | tr -d '\n')
fi
# A link or another file in its place must not be told to whoever sent it.
printf '%s' "$expect" | grep -Eqx '[a-z0-9_]{1,64}@[0-9.]{1,64}' ||
    fail "the payload says in no file EXPECT which NAME@VERSION shall serve; add one beside repository"
as_service nice -n 15 parfocal update apply --config "$config" --from "$folder/repository" --expect "$expect"
