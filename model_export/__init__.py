"""From light to a bundle: synthetic frames, training, evaluation, export."""
