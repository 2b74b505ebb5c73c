"""Tables of a paper: a grid of runs, each carried out by a real coordinator and a real fleet.

A table (`table`) says which methods are compared, at which shares of high-tier clients and with which seeds; `grid` makes
cells of it, each a run file, and finds the warm-ups that cells have in common. `conduct` carries the jobs out side by
side, each in a folder of its own (`folders`), so that what is finished is never run again; `outcome` is what a run's ledger
says in the end, `summary` and `figure` what is made of all of them.
"""
