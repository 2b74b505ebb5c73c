"""The coordinator: one process, from a run file to the weights it has trained.

Internal: what is public is in `zowarmup`.
"""

import os

# Read when grpc is imported. Its log is for its makers; errors reach us as errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
