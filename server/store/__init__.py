"""What a coordinator keeps on disk: the event log, blobs, uploads; checked, repaired, copied."""
