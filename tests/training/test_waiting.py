"""A step waits for nothing: what would make the host wait for a GPU is counted on the CPU, and refused on a GPU."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nextscale.checkpoint import load_tokenizer
from nextscale.data.source import open_source
from nextscale.data.tokens import TokenCacheConfig
from nextscale.errors import TrainingDiverged
from nextscale.training import divergence
from nextscale.training.config import AdversarialConfig, DisturbanceConfig
from nextscale.training.divergence import LossWatch
from nextscale.training.loop import TrainingStage, take_step
from nextscale.training.stage1 import TokenizerStage
from nextscale.training.stage2 import TransformerStage, train_transformer
from nextscale.training.tokens import write_tokens
from nextscale.training.transfer import Late
from toys import tokenizer_config
from training.small_runs import Make, lines, stage1_config, stage2_config

ADVERSARY = AdversarialConfig(adversarial=0.4, adversarial_start=0, discriminator_channels=4, discriminator_levels=2)
WAITING = ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "unique", "equal", "lift_fresh")
"""Operations whose result, or the size of whose result, the host must know; and tensors made from Python's numbers."""


class Waits(TorchDispatchMode):
    """Counts operations for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if masked or name.startswith(WAITING):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def stages(data: Path, tokenizer: Path, folder: Path, mobilenet: str, **changes: Any) -> list[TrainingStage[Any]]:
    """Both stages, ready to take steps: stage 1 with all its losses, stage 2 from tokens and from images.

    Stage 1 also for a decoder alone that another one teaches.
    """
    known = load_tokenizer(tokenizer)
    about = TokenCacheConfig(scales=known.config.scales, codebook_size=known.config.codebook_size)
    tokens = write_tokens(known, open_source(data), folder / "tokens", about)
    losses = {"perceptual": 0.1, "perceptual_weights": mobilenet, "perceptual_shift": 1, "adversary": ADVERSARY}
    losses["disturbance"] = DisturbanceConfig(disturb=0.5, scale_dropout=0.5)
    taught = losses | {"init_from": str(tokenizer), "decoder_only": True, "teacher": 1.0}
    taught["model"] = tokenizer_config(decoder_channels=8)
    mistakes = {"self_correct": 0.3, "masked_last": 0.5, "scale_weights": (2.0, 1.0, 1.0, 1.0)}
    made: list[TrainingStage[Any]] = [
        TokenizerStage(stage1_config(data, folder / "one", restart_every=99, **losses, **changes), resume=False),
        TokenizerStage(stage1_config(data, folder / "taught", restart_every=99, **taught, **changes), resume=False),
        TransformerStage(stage2_config(tokens, tokenizer, folder / "two", **changes), resume=False),
        TransformerStage(stage2_config(data, tokenizer, folder / "three", **changes), resume=False),
        TransformerStage(stage2_config(tokens, tokenizer, folder / "four", **mistakes, **changes), resume=False),
    ]
    for stage in made:
        stage.prepare()
    return made


def test_steps_ask_the_device_nothing(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path, mobilenet: str
) -> None:
    for stage in stages(image_folder(side=32), tokenizer_folder, tmp_path, mobilenet):
        batches = stage.batches(0, None)
        stage.step(0, next(batches))
        batch = next(batches)
        with Waits() as waits:
            stage.step(1, batch)
        batches.close()
        assert waits.counts == {"_local_scalar_dense": 1}, "the average's count, which lies on the CPU"


@pytest.mark.gpu
def test_steps_do_not_wait_for_the_gpu(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path, mobilenet: str
) -> None:
    settings = {"device": "cuda", "precision": "bf16"}
    for stage in stages(image_folder(side=32), tokenizer_folder, tmp_path, mobilenet, **settings):
        watch, batches = LossWatch(tmp_path, 0), stage.batches(0, None)
        try:
            for step in range(8):
                if step == 4:  # by then everything is allocated
                    torch.cuda.set_sync_debug_mode("error")
                take_step(stage, step, next(batches), watch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            batches.close()
        watch.look()


def test_losses_are_read_one_step_late(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Watched(Late):
        def __init__(self, value: torch.Tensor) -> None:
            super().__init__(value)
            self.number = sum(event.startswith("queued") for event in events) + 1
            events.append(f"queued {self.number}")

        def read(self) -> float:
            events.append(f"read {self.number}")
            return super().read()

    monkeypatch.setattr(divergence, "Late", Watched)
    config = stage2_config(image_folder(), tokenizer_folder, tmp_path / "run")
    train_transformer(replace(config, steps=6, log_every=5, checkpoint_every=3, sample_every=6))
    assert events == [
        "queued 1", "read 1",  # shown
        "queued 2",
        "queued 3", "read 2", "read 3",  # saved
        "queued 4",
        "queued 5", "read 4", "read 5",  # recorded
        "queued 6", "read 6",  # saved, exported
    ]  # fmt: skip


@pytest.mark.parametrize(("wrong", "kept"), [(5, 4), (7, 4), (8, 8)])
def test_nothing_is_kept_of_a_step_whose_loss_is_no_number(
    tmp_path: Path,
    image_folder: Make,
    tokenizer_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: int,
    kept: int,
) -> None:
    whole, steps = TransformerStage.loss, iter(range(99))

    def loss(*args: Any) -> Any:
        value, figures = whole(*args)
        return value * (float("nan") if next(steps) == wrong else 1.0), figures

    monkeypatch.setattr(TransformerStage, "loss", loss)
    config = stage2_config(image_folder(), tokenizer_folder, tmp_path / "run")
    with pytest.raises(TrainingDiverged, match=f"the loss is nan at step {wrong}; .*step-0000000{wrong}-rank-0.pt"):
        train_transformer(replace(config, log_every=4, checkpoint_every=4, sample_every=10))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()][-1] == f"step-0000000{kept}.pt"
    assert lines(tmp_path / "run")[-1]["step"] == kept
    assert not (tmp_path / "run" / "model").exists()
