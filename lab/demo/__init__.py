"""The demo: a coordinator and clients on this machine, and its report."""
