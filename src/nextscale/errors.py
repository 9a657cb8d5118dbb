"""Errors that are nobody's input: one line, exit status 1."""


class TrainingDiverged(RuntimeError):
    """The loss is no longer a finite number; the message says where the batch was saved."""
