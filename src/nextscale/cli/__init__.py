"""The command line. Commands are imported only when they run, so that help is quick."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Sequence
from itertools import count
from typing import Any

from cyclopts import App, CycloptsError, Group, UnusedCliTokensError

from nextscale import __version__
from nextscale.cli.examples import EXAMPLES
from nextscale.environment import settle_caches, share_the_processor
from nextscale.errors import TrainingDiverged, missing_extra

DONE, FAILED, WRONG_INPUT = 0, 1, 2
BASELINES = {
    "raster": "raster-order AR",
    "rq": "RQ-Transformer",
    "maskgit": "MaskGIT",
    "dit": "DiT",
    "r3gan": "R3GAN",
    "stylegan-xl": "StyleGAN-XL",
}
UNWRITABLE = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR)

app = App(
    name="nextscale",
    help="Visual autoregressive modelling: train, sample, edit and measure next-scale image models.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)


def add(to: App, name: str, text: str, function: str, group: Group | None = None) -> None:
    """Add a command; `function` (module:name) is imported when the command runs. Its help ends with examples."""
    words = name if to is app else f"{to.name[0]} {name}"
    lines = "\n".join(f"  nextscale {words} {example}".rstrip() for example in EXAMPLES[words])
    place: dict[str, Any] = {"sort_key": next(ORDER)} | ({} if group is None else {"group": group})
    shown: dict[str, Any] = {"help_format": "plaintext", "help_epilogue": f"Examples:\n\n{lines}"}
    to.command(f"nextscale.cli.{function}", name=name, help=text, **shown, **place)


def add_group(name: str, text: str, group: Group) -> App:
    """Add a command that has commands of its own."""
    made = App(name=name, help=text, group=group, sort_key=next(ORDER))
    app.command(made)
    return made


ORDER = count()
"""Commands are listed in the order in which they are added."""
PICTURES, TRAINING, MEASURING, MODELS, ALL = (
    Group(title, sort_key=number)
    for number, title in enumerate(("Make and change images", "Train", "Measure", "Models", "Always"), start=1)
)
for flag in ("--help", "--version"):
    app[flag].group = ALL

add(app, "generate", "Generate images; without options, 16 of the demo model.", "generate:generate", PICTURES)
add(app, "reconstruct", "Encode and decode images; --scales shows every scale.", "reconstruct:reconstruct", PICTURES)
edit = add_group("edit", "Edit images without training: in-paint, out-paint, other classes, upscale.", PICTURES)
add(edit, "inpaint", "Regenerate what a mask covers; the rest stays to the pixel.", "edit:inpaint")
add(edit, "outpaint", "Add pixels at the sides.", "edit:outpaint")
add(edit, "class", "Turn an image, or what a mask covers, into another class.", "edit:edit_class")
add(edit, "upscale", "Make a small image as large as the model's.", "edit:upscale")
add(app, "studio", "Open the studio: generate, edit and inspect in a browser.", "studio:studio", PICTURES)
add(app, "explain", "Play with the method in a browser: ten chapters, real models.", "explain:explain", PICTURES)
add(app, "serve", "Serve a model over HTTP, in OpenAI's Images API.", "serve:serve", PICTURES)

train = add_group("train", "Train a tokenizer (stage 1) or a transformer (stage 2).", TRAINING)
add(train, "tokenizer", "Stage 1: the multi-scale VQVAE.", "train:train_tokenizer_command")
add(train, "var", "Stage 2: the next-scale transformer.", "train:train_var_command")
for kind, title in BASELINES.items():
    add(train, kind, f"Stage 2 of a baseline: {title}.", f"train:train_{kind.replace('-', '_')}_command")
add(train, "neon", "After training: improve a model by its own samples.", "train:neon")
distill = add_group("distill", "Make a smaller copy of a part of a model.", TRAINING)
add(distill, "decoder", "A narrower decoder for the same tokens: a quarter of the work.", "train:distill_decoder")
add(app, "tokenize", "Write a token cache to train transformers from.", "tokenize:tokenize", TRAINING)

evaluate = add_group("evaluate", "Measure models, or any images, against real ones.", MEASURING)
add(evaluate, "generation", "Figures of generated images, or of any others.", "evaluate:generation")
add(evaluate, "reconstruction", "Figures of a tokenizer: what it keeps of images.", "evaluate:reconstruction")
add(evaluate, "likelihood", "Figures of predicted tokens of held-out images.", "evaluate:likelihood")
add(evaluate, "text", "Whether images of prompts are recognised.", "evaluate:text")
add(app, "compare", "Models of several kinds in quality, steps, FLOPs and time.", "compare:compare", MEASURING)
scaling = add_group("scaling", "Scaling laws: train a family of depths, fit, plot, predict.", MEASURING)
add(scaling, "run", "Train a family of depths; a run that was stopped continues.", "scaling:run")
add(scaling, "fit", "Fit power laws of loss and token error.", "scaling:fit")
add(scaling, "plot", "Draw the laws.", "scaling:plot")
add(scaling, "predict", "Predict the losses of another depth.", "scaling:predict")
add(scaling, "ablation", "From raster order to the whole method, row by row.", "scaling:ablation")
add(app, "bench", "Time generation stage by stage.", "bench:bench", MEASURING)

add(app, "info", "Say what a model is made of.", "info:info", MODELS)
add(app, "convert", "The authors' files to our folder, and back.", "convert:convert", MODELS)
export = add_group("export", "Write a model for other runtimes.", MODELS)
add(export, "onnx", "ONNX graphs and how to sample from them, such as in a browser.", "export:export_onnx_command")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 2 the input is wrong (one line on stderr), 1 otherwise."""
    share_the_processor()  # before a command imports torch
    start_logging()
    settle_caches()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as Ctrl-C does, cleaning up
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        if words[:1] == ["help"]:
            words = [*words[1:], "--help"]
        app(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        return complain(worded(error))
    except ValueError as error:
        return complain(str(error))
    except BrokenPipeError:  # `| head` has read enough lines
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        return complain(f"{error.filename or 'output'}: cannot be written ({error.strerror}); choose another place")
    except ModuleNotFoundError as error:
        if not (line := missing_extra(error)):
            raise
        return complain(line)
    except TrainingDiverged as error:
        complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return FAILED
    finally:
        signal.signal(signal.SIGTERM, before)
    return DONE


def worded(error: CycloptsError) -> str:
    """The parser's message in the words of our messages."""
    if isinstance(error, UnusedCliTokensError):
        words = ", ".join(map(repr, error.unused_tokens or ()))
        return f"{words} is not understood here; values follow their --flags, which --help lists"
    return str(error).replace("into bool", "into true or false")


def complain(message: str) -> int:
    """Print a message as one line on stderr; returns the exit status of wrong input."""
    print("nextscale: " + " ".join(message.split()), file=sys.stderr)
    return WRONG_INPUT


class StderrHandler(logging.StreamHandler):
    """Writes to what `sys.stderr` is when a line is logged, not when logging was set up."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def start_logging() -> None:
    """Show our log lines on stderr; on a terminal through the console of the progress bars."""
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
