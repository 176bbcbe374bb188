"""The kinds of errors that are a user's mistake; a command then prints one line and exits with code 2."""

USER_ERRORS = (
    ValueError,
    TypeError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
    ImportError,
)
