"""The Python interface: a fleet in this process, coordinators and clients beside their caller, runs read back.

Internal: what is public is in `zowarmup`.

Nothing here decides or computes anything of a run: it starts what the commands start, with objects in the place of names, and
reads the same data directories. Whatever takes time runs on an event loop in a thread of its own (`background`), so a
caller may have an event loop, as notebooks do, and hears every error where it waits.
"""
