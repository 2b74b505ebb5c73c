"""What a demo can train, by name: for a command line, which knows its words without loading what trains."""

from enum import StrEnum


class DemoModel(StrEnum):
    """What a demo can train."""

    MLP = "mlp"
    CNN = "cnn"
