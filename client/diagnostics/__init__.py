"""Diagnostics: obstacles to taking part, each with its remedy, and the cost of a device's work."""
