"""Model families: one file each, its name is its key, and `Net` builds it from a recipe's numbers."""
