"""Table: the base of what is read from outside: immutable, unknown keys refused, findings in plain words."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class Table(BaseModel):
    """One table of a board file: immutable, unknown keys refused, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def explain(error: ValidationError) -> str:
    """Pydantic's findings as one line a maker understands."""
    findings = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "file"
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = "unknown key; check its spelling or remove it"
        findings.append(f"{where}: {what}")
    return "; ".join(findings)
