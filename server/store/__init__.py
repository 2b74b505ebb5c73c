"""The coordinator's files: the event log, blobs, uploads; checked, repaired, copied."""
