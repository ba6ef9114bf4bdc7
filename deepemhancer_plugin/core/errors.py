"""What goes wrong because of the input, as opposed to a defect of the program."""


class InputError(ValueError):
    """Bad input: one line that names the file, the value and what would be right.

    The command line prints it and exits with status 1.
    """


class MapWarning(UserWarning):
    """Something about the input that makes the result less trustworthy.

    The command line shows it in the log and keeps it in the report.
    """
