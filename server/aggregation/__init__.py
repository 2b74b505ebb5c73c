"""The way from a closed round to the next version: aggregation, snapshots, evaluation, rollback."""
