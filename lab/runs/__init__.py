"""Runs on disk side by side: what is in the data directories under some folders, and a figure that compares them.

Internal: what is public is in `zowarmup`.
"""
