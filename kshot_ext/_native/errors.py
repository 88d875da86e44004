"""The one error of the build code."""


class BackendError(RuntimeError):
    """The compiled library cannot be found, built or loaded; the message names the cause and the cure."""
