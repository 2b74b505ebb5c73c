"""Projects of a user's own: a folder with a run file, a model and data, what `zowarmup new` writes into one, and its demo.

Internal: what is public is in `zowarmup`.
"""
