"""The device: one client of a run.

Internal: what is public is in `zowarmup`.
"""

import os

# Read when grpc is imported. Its log is for its makers; names are looked up as the rest of the system does it, by mDNS and
# whatever else nsswitch.conf names, which grpc's own resolver does not.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_DNS_RESOLVER", "native")
