"""How the coordinator says no."""


class Rejected(Exception):
    """A command that changes nothing. `reason` is a word for programs and metrics, `detail` a sentence for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail
