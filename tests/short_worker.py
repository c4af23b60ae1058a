"""The process in which a service stages, shortened as `killed_update` says, and at the priority of the others."""

import sys

from killed_update import shorten

from edge_app.ota import worker

if __name__ == "__main__":
    shorten()
    worker._NICE = 0  # a busy machine would let it starve
    sys.exit(worker.main())
