"""Renumbering: the same model under another version."""

from __future__ import annotations

from pathlib import Path

from edge_app import bundle as bundles
from edge_app.ota.catalogue import order_of
from model_export.errors import PublishError
from model_export.publishing.desk import Done


def renumbered(name: str, version: str, out: Path) -> Done:
    """Write a bundle's model under another version.

    Raises:
        PublishError: That is no version, or the file cannot be written.
        AppError: There is no such bundle, or it is damaged.
    """
    try:
        order_of(version)
    except ValueError as error:
        raise PublishError(f"{error}; give three numbers") from error
    found = bundles.read(bundles.find(name))
    manifest = found.manifest.model_copy(update={"version": version})
    golden = bundles.golden_bytes(found.golden_in, found.golden_out, found.golden_also)
    try:
        out.write_bytes(bundles.pack(manifest, found.onnx, golden))
    except OSError as error:
        raise PublishError(f"cannot write {out} ({error.strerror}); give another place") from error
    return Done(f"{out} is {manifest.label}, the model of {found.manifest.label}", {})
