"""The one kind of error a user is meant to read."""


class OMGError(Exception):
    """Something the user can mend. The web UI's API answers it with status 422.

    Args:
        field: the request field or the thing that is wrong, as the user would write it, e.g. ``concepts[0].prompt``.
        message: what is wrong and what to do, in a sentence.
    """

    def __init__(self, field: str, message: str):
        super().__init__(f"OMG: {field}: {message}")
        self.field = field
        self.message = message
