"""The coordinator's gRPC services: messages become commands, events become messages; nothing is decided here."""
