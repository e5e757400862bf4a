"""UserError: what a person is told when something they gave can't be used. No torch."""


class UserError(Exception):
    """A mistake a person can mend: two lines in a shell, a red notice on the page, a `failed` event in a run.

    `problem` says what is wrong in one sentence; `remedy` says what the reader can do now: a setting and a
    value, or a command. Anything that is not a `UserError` is a bug.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}\n{remedy}")
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str]]:
        return UserError, (self.problem, self.remedy)
