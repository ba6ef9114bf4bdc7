"""What goes wrong because of the input, as opposed to a defect of the program."""


class InputError(ValueError):
    """Bad input: one line that names the file, the value and what would be right. The command line exits with 1."""


class MapWarning(UserWarning):
    """Something about the input that makes the result less trustworthy; shown in the log and kept in the report."""
