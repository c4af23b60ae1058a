"""From a bundle to a signed offer: a repository (TUF) in a plain folder, which a web server or a stick carries."""

from model_export.publishing.desk import Done
from model_export.publishing.publisher import Publisher

__all__ = ["Done", "Publisher"]
