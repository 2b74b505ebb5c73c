"""Several coordinators of one run: one leads, the others are front ends that follow it and forward to it."""
