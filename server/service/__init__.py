"""The coordinator's gRPC services: messages become commands, events become messages, and nothing is decided here."""
