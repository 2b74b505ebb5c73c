"""What a coordinator shows of itself: metrics, the log, socket counters."""
