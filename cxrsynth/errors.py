"""The one exception that users cause and can mend."""


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence: the argument, what was received, what is allowed and what to do. The command line
    prints it without a traceback and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """What an exception of another library says, short enough for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
