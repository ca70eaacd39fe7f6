"""The one exception that a user is meant to read.

In: what was expected, what was found, what to do. Out: a single line on stderr (see `kronos.cli`).
"""


class KitError(ValueError):
    """A problem the user can mend: bad input, a wrong setting, a missing file.

    The message is one line (or a short list when several problems are reported together) that says what was
    expected, what was found and what to do. Programmer errors stay `assert`s and plain exceptions.
    """
