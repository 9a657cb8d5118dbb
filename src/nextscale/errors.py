"""Errors that are nobody's input: one line, exit status 1."""


class TrainingDiverged(RuntimeError):
    """The loss is no longer a finite number; the message says where the batch was saved."""


class TrainingStopped(KeyboardInterrupt):
    """A training was asked to stop by SIGINT or SIGTERM: it has saved a checkpoint and left its loop.

    It is a KeyboardInterrupt so that whoever called the training ends as well, unless they ask for this error by name.
    """
