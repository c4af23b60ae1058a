#!/bin/sh
# Mender's update module for payloads of the type parfocal-models: one file, repository.tar, as take_models.sh reads it.
# Install it as /usr/share/mender/modules/v3/parfocal-models, executable.
set -eu

state=$1 files=${2:-.}
switched=$files/tmp/switched
take=/usr/lib/parfocal/take_models.sh
config=/etc/parfocal/parfocal.toml

serving() {
    status=$(runuser -u parfocal -- parfocal update status --config "$config" --json)
    printf '%s\n' "$status" | sed -n 's/.*"serving": *"\([^"]*\)".*/\1/p'
}

case $state in
NeedsArtifactReboot) echo No ;;
SupportsRollback) echo Yes ;;
ArtifactInstall)
    before=$(serving)
    failed=0
    sh "$take" < "$files/files/repository.tar" || failed=$?
    # Another version than was expected may serve by now; that is to be left again too.
    now=$(serving)
    [ "$now" = "$before" ] || printf '%s' "$now" > "$switched"
    exit "$failed"
    ;;
ArtifactRollback)
    # A candidate that was refused never served: then there is nothing to leave. Nor is there where the board left it.
    [ -s "$switched" ] || exit 0
    runuser -u parfocal -- parfocal update rollback --config "$config" --leaving "$(cat "$switched")"
    ;;
esac
