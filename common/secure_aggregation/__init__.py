"""Secure aggregation: a coordinator learns the sum of what devices give, and of no device what it gave."""
