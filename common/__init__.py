"""The code that the coordinator and the clients share; in the folder itself, text for people and checks of untrusted input.

Internal: what is public is in `zowarmup`.
"""
