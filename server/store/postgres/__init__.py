"""A run in a PostgreSQL database, in a schema of its own: events, blobs and the lease, which several coordinators share."""
