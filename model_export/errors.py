"""Everything that can go wrong between a recipe and a bundle, as one tree."""


class ExportError(Exception):
    """A fault on the way to a bundle."""


class BadRecipe(ExportError):
    """A recipe cannot be used: unreadable, an unknown key, or an unknown family."""


class NoData(ExportError):
    """Shards are missing, truncated, or made by another recipe."""


class NotAccepted(ExportError):
    """A trained network misses its recipe's acceptance limits."""


class ParityError(ExportError):
    """The exported network does not answer as the trained one."""


class NotInstalled(ExportError):
    """A library that training needs is missing."""


class PublishError(ExportError):
    """A repository of bundles cannot be changed as asked: a key is missing, a file damaged, a version taken."""
