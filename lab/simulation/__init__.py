"""Simulated fleets: many clients in one process, or in several, on one machine or a Ray cluster.

Each client has an identity, data and a stream of its own, and is the real client's code on the real wire. What would
be equal in all of them is there once: the replica, whose digest is compared with that of every commit which every
client receives; the program; the trainer; and the connections, some for all. So memory does not grow with clients.
Computing is one client after the other; more processes, each with a part of the fleet, compute side by side.
"""
