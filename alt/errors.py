"""The one exception class that users of `alt` have to know."""


class AltError(Exception):
    """What was asked cannot be done; the message says why, with values, and what to do.

    Messages are one line: the command line prints them as they are. Errors of libraries
    underneath are kept as `__cause__`.
    """
