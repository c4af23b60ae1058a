#!/bin/sh
# RAUC's handler for bundles that hold the folder repository/ and the file EXPECT beside it; it takes the place of writing
# slots.
set -eu

echo '<< debug models are being verified and rehearsed on this board'
if said=$(tar -C "$RAUC_BUNDLE_MOUNT_POINT" -c repository EXPECT | sh /usr/lib/parfocal/take_models.sh 2>&1); then
    printf '%s\n' "$said"
else
    echo "<< error $(printf '%s\n' "$said" | sed '/^ *$/d; s/^error: //' | tail -n 1)"
    exit 1
fi
