"""The command line. Commands are imported only when they run, so that help is quick."""

from __future__ import annotations

import errno
import logging
import signal
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from nextscale import __version__
from nextscale.errors import TrainingDiverged
from nextscale.threads import share_the_processor

DONE, FAILED, WRONG_INPUT = 0, 1, 2
UNWRITABLE = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG)

app = App(
    name="nextscale",
    help="Visual autoregressive modelling: train, sample, edit and measure next-scale image models.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
app.command("nextscale.cli.generate:generate", help="Generate images; without options, 16 of the demo model.")
app.command("nextscale.cli.reconstruct:reconstruct", help="Encode and decode images; --scales shows every scale.")
app.command("nextscale.cli.tokenize:tokenize", help="Write a token cache to train transformers from.")
app.command("nextscale.cli.info:info", help="Say what a model is made of.")
app.command("nextscale.cli.convert:convert", help="The authors' files to our folder, and back.")
app.command("nextscale.cli.bench:bench", help="Time generation stage by stage.")
edit = App(name="edit", help="Edit images without training: in-paint, out-paint, other classes, upscale.")
edit.command("nextscale.cli.edit:inpaint", name="inpaint", help="Regenerate what a mask covers.")
edit.command("nextscale.cli.edit:outpaint", name="outpaint", help="Add pixels at the sides.")
edit.command("nextscale.cli.edit:edit_class", name="class", help="Turn an image, or a part, into another class.")
edit.command("nextscale.cli.edit:upscale", name="upscale", help="Make a small image as large as the model's.")
app.command(edit)
app.command("nextscale.cli.studio:studio", help="Open the studio: generate, edit and inspect in a browser.")
app.command("nextscale.cli.serve:serve", help="Serve a model over HTTP, in OpenAI's Images API.")
app.command("nextscale.cli.compare:compare", help="Models of several kinds in quality, steps, FLOPs and time.")
train = App(name="train", help="Train a tokenizer (stage 1) or a transformer (stage 2).")
train.command("nextscale.cli.train:train_tokenizer_command", name="tokenizer", help="Stage 1: the multi-scale VQVAE.")
train.command("nextscale.cli.train:train_var_command", name="var", help="Stage 2: the next-scale transformer.")
for kind, title in (
    ("raster", "raster-order AR"), ("rq", "RQ-Transformer"), ("maskgit", "MaskGIT"), ("dit", "DiT"),
):  # fmt: skip
    train.command(f"nextscale.cli.train:train_{kind}_command", name=kind, help=f"Stage 2 of a baseline: {title}.")
app.command(train)
scaling = App(name="scaling", help="Scaling laws: train a family of depths, fit, plot, predict.")
for name, title in (
    ("run", "Train a family of depths."), ("fit", "Fit power laws."), ("plot", "Draw them."),
    ("predict", "Predict another depth."), ("ablation", "From raster order to the whole method."),
):  # fmt: skip
    scaling.command(f"nextscale.cli.scaling:{name}", name=name, help=title)
app.command(scaling)
evaluate = App(name="evaluate", help="Measure models, or any images, against real ones.")
evaluate.command("nextscale.cli.evaluate:generation", name="generation", help="Figures of generated images.")
evaluate.command("nextscale.cli.evaluate:reconstruction", name="reconstruction", help="Figures of a tokenizer.")
evaluate.command("nextscale.cli.evaluate:likelihood", name="likelihood", help="Figures of predicted tokens.")
app.command(evaluate)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 2 the input is wrong (one line on stderr), 1 otherwise."""
    share_the_processor()  # before a command imports torch
    start_logging()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as Ctrl-C does, cleaning up
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return complain(str(error))
    except ValueError as error:
        return complain(str(error))
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        return complain(f"{error.filename or 'output'}: cannot be written ({error.strerror}); choose another place")
    except TrainingDiverged as error:
        complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return FAILED
    finally:
        signal.signal(signal.SIGTERM, before)
    return DONE


def complain(message: str) -> int:
    """One line on stderr, whatever the message."""
    print("nextscale: " + " ".join(message.split()), file=sys.stderr)
    return WRONG_INPUT


class StderrHandler(logging.StreamHandler):
    """Writes to whatever `sys.stderr` is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def start_logging() -> None:
    """Our log lines on stderr, through the console of the progress bars where it is a terminal."""
    logger = logging.getLogger("nextscale")
    if logger.handlers:
        return
    if sys.stderr.isatty():
        from rich.logging import RichHandler

        from nextscale.progress import stderr_console

        handler: logging.Handler = RichHandler(console=stderr_console(), show_path=False, show_level=False)
    else:
        handler = StderrHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def run() -> None:
    """Entry point of the `nextscale` script."""
    sys.exit(main())
