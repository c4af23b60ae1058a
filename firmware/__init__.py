"""The board: camera, Z axis, light and mechanics; nothing here knows a model or a network."""
