#!/usr/bin/env bash
# Runs every rig of this folder; a rig that cannot run here says why and counts as skipped.
set -uo pipefail
cd "$(dirname "$0")"

passed=0 failed=0 skipped=0
for rig in gpio.sh picamera.sh; do
  echo "== $rig"
  began=$SECONDS
  bash "$rig"
  case $? in
    0) passed=$((passed + 1)) ;;
    77) skipped=$((skipped + 1)) ;;
    *) failed=$((failed + 1)) ;;
  esac
  echo "== $rig took $((SECONDS - began)) s"
done
echo "$passed passed, $failed failed, $skipped skipped"
exit $((failed > 0))
