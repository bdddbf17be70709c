"""The one exception the lab raises on purpose."""


class LabError(Exception):
    """What was tried and why it failed; `hint` says what to do, `code` is what a command exits with."""

    def __init__(self, message: str, hint: str = "", code: int = 1):
        super().__init__(message)
        self.hint, self.code = hint, code

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n  {self.hint}" if self.hint else text
