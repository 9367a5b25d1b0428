"""The one exception a person is meant to read."""


class UserError(Exception):
    """Something the user can change; the message is one sentence that names the value to change."""
