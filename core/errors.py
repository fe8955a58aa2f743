"""Errors that a user can act on. Commands print them without a traceback and exit with 2."""


class UserError(Exception):
    """Something the user can fix: the message names the file, the value and the way out."""
