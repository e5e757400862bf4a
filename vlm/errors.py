"""UserError: a mistake with a problem and a remedy, for shell, page and events. No torch."""


class UserError(Exception):
    """A mistake its reader can mend: two lines in a shell, a red notice on the page, an event in a run.

    `problem` says what is wrong in one sentence; `remedy` says what the reader can do now: a setting and a
    value, or a command. Anything that is not a `UserError` is a bug.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}\n{remedy}")
        self.problem = problem
        self.remedy = remedy

    # Exceptions pickle their `args`, here one text: one raised in a child process would fail to unpickle.
    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str]]:
        return UserError, (self.problem, self.remedy)
