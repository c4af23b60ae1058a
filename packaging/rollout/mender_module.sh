#!/bin/sh
# Mender's update module for payloads of the type parfocal-models: one file, repository.tar, as take_models.sh reads it.
# Install it as /usr/share/mender/modules/v3/parfocal-models, executable.
set -eu

state=$1 files=${2:-.}
switched=$files/tmp/switched
take=/usr/lib/parfocal/take_models.sh
config=/etc/parfocal/parfocal.toml

# Tells of the model that is watched, if one is, and of no other.
status() { runuser -u parfocal -- parfocal update status --config "$config" --json; }
field() { printf '%s\n' "$2" | sed -n 's/.*"'"$1"'": *"\([^"]*\)".*/\1/p'; }

case $state in
NeedsArtifactReboot) echo No ;;
SupportsRollback) echo Yes ;;
ArtifactInstall)
    before=$(status)
    failed=0
    sh "$take" < "$files/files/repository.tar" || failed=$?
    # Only what was put into service just now is watched and was not told of before; it may be another version than was
    # expected, which is to be left again too.
    after=$(status)
    now=$(field serving "$after")
    [ "$(field state "$after")" != watched ] || [ "$now" = "$(field serving "$before")" ] ||
        printf '%s' "$now" > "$switched"
    exit "$failed"
    ;;
ArtifactRollback)
    # A candidate that was refused never served: then there is nothing to leave. Nor is there where the board left it.
    [ -s "$switched" ] || exit 0
    runuser -u parfocal -- parfocal update rollback --config "$config" --leaving "$(cat "$switched")"
    ;;
esac
