"""The live page: what a browser shows of a run, kept up to date by server-sent events, and the same as one file."""
