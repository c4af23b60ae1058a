"""Tries an environment before it is put into service: trial.py ENVIRONMENT VERSION; fails with a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PATIENCE_S = 600


def verdict(doctor: str, complaint: str, version: str) -> str:
    """What is wrong, or nothing.

    Args:
        doctor: what `parfocal doctor --json` wrote to stdout.
        complaint: what it wrote to stderr.
        version: which it has to be.
    """
    try:
        said = json.loads(doctor)
    except ValueError:
        return (complaint.strip().splitlines() or ["parfocal doctor says nothing"])[-1]
    if "error" in said:
        return f"{said['error']['kind']}: {said['error']['message']}"
    if said["parfocal"] != version:
        return f"it says that it is {said['parfocal']}, not {version}"
    findings = said["findings"]
    if not said["simulated_board_works"]:
        trial = next((finding["detail"] for finding in findings if finding["what"] == "trial"), "no reason given")
        return f"the simulated board does not work: {trial}"
    runtimes = [finding for finding in findings if finding["what"] == "runtime"]
    if not any(finding["ok"] for finding in runtimes):
        return "no inference runtime can be used: " + "; ".join(f"{one['name']}: {one['detail']}" for one in runtimes)
    return ""


def main(environment: str, version: str) -> str:
    """Ask the environment's own `parfocal doctor`; returns what is wrong, or nothing."""
    try:
        done = subprocess.run(  # noqa: S603
            [f"{environment}/bin/parfocal", "doctor", "--json"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            # Then what breaks down says where.
            env={**os.environ, "PARFOCAL_DEBUG": "1"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return verdict(done.stdout, done.stderr, version)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]) or 0)
