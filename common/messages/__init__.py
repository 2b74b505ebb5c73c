"""What clients and the coordinator say to each other: values, and their form on the wire."""
