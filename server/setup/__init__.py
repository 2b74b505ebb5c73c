"""Making a run or opening the one that is there."""
