#!/usr/bin/env bash
# Builds the Debian packages and installs them: all.sh [TARGET ...]; by default all but trixie_arm64.
# A target that cannot be tried here says why and counts as skipped.
set -uo pipefail
cd "$(dirname "$0")" || exit

[ $# -gt 0 ] || set -- bookworm_amd64 bookworm_arm64 jetpack6
passed=0 failed=0 skipped=0
for target; do
  echo "== $target"
  began=$SECONDS
  bash package.sh "$target"
  case $? in
    0) passed=$((passed + 1)) ;;
    77) skipped=$((skipped + 1)) ;;
    *) failed=$((failed + 1)) ;;
  esac
  echo "== $target took $((SECONDS - began)) s"
done
echo "$passed passed, $failed failed, $skipped skipped"
exit $((failed > 0))
