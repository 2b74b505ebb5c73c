"""Telemetry of a coordinator: metrics, the log, socket counters."""
