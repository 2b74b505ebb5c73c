"""An operator's session with a coordinator: the connection, and its answers as values."""
