"""Who may talk to the board: keys, roles, limits, and how a board is found."""
