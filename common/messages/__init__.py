"""The messages between clients and the coordinator: values, and their form on the wire."""
