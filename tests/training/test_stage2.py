"""Stage 2 end to end on toy images, from tokens and from streams: learning, exact repetition, exact resume."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nextscale import VARPipeline
from nextscale.checkpoint import ModelConfig, fingerprint, load_tokenizer, load_transformer, save_model
from nextscale.data.source import open_source
from nextscale.data.tokens import TokenCacheConfig
from nextscale.errors import TrainingDiverged
from nextscale.training import stage2 as stage2_module
from nextscale.training.heldout import class_places, heldout_batches, measure_transformer
from nextscale.training.images import spread
from nextscale.training.run import RunFolder
from nextscale.training.stage1 import train_tokenizer
from nextscale.training.stage2 import train_transformer
from nextscale.training.tokens import write_tokens
from toys import make_pipeline, make_tokenizer, transformer_config, write_parquet
from training.small_runs import FAST, Make, interrupt_at, lines, stage1_config, stage2_config, stop_while, weights

NAMES = ("blue", "green", "red")


def test_stage2_repeats_and_resumes_exactly(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_folder()
    first, second, third = (stage2_config(data, tokenizer_folder, tmp_path / name, heldout=str(data)) for name in "abc")
    train_transformer(first)
    train_transformer(second)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    interrupt_at(monkeypatch, 6)
    with pytest.raises(KeyboardInterrupt):
        train_transformer(third)
    monkeypatch.undo()
    train_transformer(third, resume=True)
    assert lines(tmp_path / "c") == lines(tmp_path / "a")
    a, c = (load_transformer(tmp_path / name).state_dict() for name in "ac")
    assert all(torch.equal(a[name], c[name]) for name in a)
    line = lines(tmp_path / "a")[0]
    assert {"loss", "loss_last", "accuracy", "accuracy_last", "gradient_norm"} <= set(line)
    assert len(line["loss_per_scale"]) == len(line["accuracy_per_scale"]) == 4
    assert {"heldout_loss", "heldout_unconditional_loss"} <= set(lines(tmp_path / "a")[-1])
    assert (tmp_path / "a" / "samples" / "00000012.png").is_file()


def test_stage2_from_a_token_cache_learns(tmp_path: Path, image_folder: Make, tokenizer_folder: Path) -> None:
    tokenizer, data = load_tokenizer(tokenizer_folder), image_folder(per_class=4)
    described = TokenCacheConfig(scales=tokenizer.config.scales, codebook_size=32)
    tokens = write_tokens(tokenizer, open_source(data), tmp_path / "tokens", described)
    # The same twelve images again and again: a model that works learns them by heart.
    config = stage2_config(
        tokens,
        tokenizer_folder,
        tmp_path / "run",
        steps=120,
        batch_size=12,
        log_every=10,
        sample_every=120,
        heldout=str(tokens),
        class_dropout=0.0,
        model=transformer_config(drop_path=0.0),
    )
    model = train_transformer(config)
    losses = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert lines(tmp_path / "run")[-1]["heldout_loss"] < 0.6 * losses[0]
    pipeline = VARPipeline.from_pretrained(model)
    assert pipeline.class_names == ("blue", "green", "red")
    assert len(pipeline.generate("red", seeds=[0]).images) == 1


@pytest.mark.parametrize("changes", [{"accumulate": 3}, {"accumulate": 4}, {"checkpointing": True}])
def test_less_memory_gives_the_same_training(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path, changes: dict
) -> None:
    data, model = image_folder(), transformer_config(drop_path=0.0)
    losses = []
    for name, settings in (("plain", {}), ("spared", changes)):
        train_transformer(stage2_config(data, tokenizer_folder, tmp_path / name, model=model, **settings))
        losses.append([line["loss"] for line in lines(tmp_path / name) if "loss" in line])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_half_precision_gradients_are_scaled(tmp_path: Path, image_folder: Make, tokenizer_folder: Path) -> None:
    data, model = image_folder(), transformer_config(drop_path=0.0)
    losses = {}
    for precision in ("fp32", "fp16"):
        config = stage2_config(data, tokenizer_folder, tmp_path / precision, model=model, precision=precision)
        train_transformer(config)
        losses[precision] = [line["loss"] for line in lines(tmp_path / precision) if "loss" in line]
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=0.02)
    state = RunFolder(tmp_path / "fp16").load_checkpoint()
    assert state is not None
    assert state["scaler"]["scale"] == 2048
    train_transformer(config, resume=True)  # finished: takes the scaler's state up and leaves
    with pytest.raises(ValueError, match="tokenizers train in bf16 or fp32"):
        stage1_config(data, tmp_path, precision="fp16")


def test_a_loss_that_is_no_number_stops_and_keeps_its_batch(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path
) -> None:
    data = image_folder()
    explosive = replace(FAST, learning_rate=1e30, clip=1e30, warmup=0.0)
    config = stage2_config(data, tokenizer_folder, tmp_path / "run", optimiser=explosive, checkpoint_every=1)
    with pytest.raises(TrainingDiverged, match=r"is in .*non-finite-step-0000000\d-rank-0\.pt") as error:
        train_transformer(config)
    assert "\n" not in str(error.value)
    (saved,) = (tmp_path / "run").glob("non-finite-*.pt")
    batch = torch.load(saved, weights_only=True)
    assert batch["tokens"].shape == (6, 30)
    assert batch["classes"].shape == (6,)
    with pytest.raises(TrainingDiverged):
        train_tokenizer(stage1_config(data, tmp_path / "one", optimiser=explosive))


def test_starting_from_a_model_with_other_classes(tmp_path: Path, image_folder: Make) -> None:
    start = make_pipeline()
    start.save_pretrained(tmp_path / "start")
    data = image_folder()
    (data / "red").rename(data / "yellow")
    still = replace(FAST, learning_rate=1e-12)
    config = stage2_config(
        data,
        tmp_path / "start",
        tmp_path / "run",
        init_from=str(tmp_path / "start"),
        optimiser=still,
        steps=1,
        model=transformer_config(depth=5),
    )
    model = load_transformer(train_transformer(config))
    assert model.config.depth == 2, "the start's architecture"
    before, after = start.transformer.state_dict(), model.state_dict()
    for name in set(before) - {"class_embedding.weight"}:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    known = before["class_embedding.weight"][[0, 1, 3, 3]]  # blue, green, yellow (new), unconditional
    torch.testing.assert_close(after["class_embedding.weight"], known, atol=1e-6, rtol=0)
    alone = replace(config, out=str(tmp_path / "alone"), model=transformer_config(attention="scale"))
    started = load_transformer(train_transformer(alone))
    assert started.config == replace(model.config, attention="scale"), "each scale goes on by itself"
    torch.testing.assert_close(started.state_dict(), model.state_dict(), atol=1e-6, rtol=0)
    other = make_tokenizer(codebook_size=64)
    save_model(tmp_path / "other", ModelConfig(kind="tokenizer"), tokenizer=other)
    with pytest.raises(ValueError, match="its codebook_size is 32, the tokenizer's 64"):
        train_transformer(replace(config, tokenizer=str(tmp_path / "other"), out=str(tmp_path / "x")))


def test_epochs_count_steps(tmp_path: Path, image_folder: Make, tokenizer_folder: Path) -> None:
    data = image_folder()  # 24 images
    train_transformer(stage2_config(data, tokenizer_folder, tmp_path / "run", epochs=1.5))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == 6
    train_tokenizer(stage1_config(data, tmp_path / "one", epochs=0.5))
    assert json.loads((tmp_path / "one" / "config.json").read_text())["steps"] == 2


def test_half_precision_exports_give_one_tokenizer(tmp_path: Path, image_folder: Make) -> None:
    data = image_folder()
    train_tokenizer(stage1_config(data, tmp_path / "one", steps=2, export="bf16"))
    train_transformer(stage2_config(data, tmp_path / "one", tmp_path / "two", steps=2, export="bf16"))
    one, two = (load_tokenizer(tmp_path / name) for name in ("one", "two"))
    assert fingerprint(one) == fingerprint(two), "rounded once, not twice"
    sizes = [(tmp_path / "one" / f"model/tokenizer/{name}").stat().st_size for name in ("model.safetensors",)]
    assert sizes[0] < 2.5 * sum(p.numel() for p in one.parameters())
    with pytest.raises(ValueError, match="export 'int3' is not known"):
        stage1_config(data, tmp_path, export="int3")


def test_stage2_without_classes(tmp_path: Path, image_folder: Make, tokenizer_folder: Path) -> None:
    data = image_folder(flat=True)
    model = train_transformer(stage2_config(data, tokenizer_folder, tmp_path / "run", steps=2))
    pipeline = VARPipeline.from_pretrained(model)
    assert pipeline.transformer.config.classes == 0
    assert len(pipeline.generate(None, seeds=[0, 1]).images) == 2


def test_stage2_refuses_foreign_tokens_and_tokenizers(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path
) -> None:
    data = image_folder()
    other = make_tokenizer(seed=1)
    described = TokenCacheConfig(scales=other.config.scales, codebook_size=32)
    foreign = write_tokens(other, open_source(data), tmp_path / "foreign", described)
    with pytest.raises(ValueError, match="made by another tokenizer"):
        train_transformer(stage2_config(foreign, tokenizer_folder, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    config = stage2_config(data, tokenizer_folder, tmp_path / "run", tokenizer_fingerprint="0" * 64)
    with pytest.raises(ValueError, match="its weights are not those"):
        train_transformer(config)


def test_streams_train_and_continue_exactly(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, heldout = write_parquet(tmp_path / "stream"), str(image_folder())
    settings = {"stream": True, "heldout": heldout, "log_every": 1}
    with pytest.raises(ValueError, match="a stream cannot be measured on"):
        train_tokenizer(stage1_config(stream, tmp_path / "x", stream=True, heldout=""))
    with pytest.raises(ValueError, match="a stream does not know its length"):
        stage1_config(stream, tmp_path / "x", stream=True, epochs=1.0)
    for train, config in (
        (train_tokenizer, stage1_config(stream, tmp_path / "one", **settings)),
        (train_transformer, stage2_config(stream, tokenizer_folder, tmp_path / "two", **settings)),
    ):
        whole = train(config)
        broken = replace(config, out=f"{config.out}-again")
        with monkeypatch.context() as patch:
            interrupt_at(patch, 7)
            with pytest.raises(KeyboardInterrupt):
                train(broken)
        resumed = train(broken, resume=True)
        for file in whole.rglob("*.safetensors"):
            assert file.read_bytes() == (resumed / file.relative_to(whole)).read_bytes()
        kept = sorted(path.name for path in (resumed.parent / "checkpoints").glob("stream-*"))
        assert kept[-1] == "stream-00000012-00000.json" and len(kept) <= 3
    assert VARPipeline.from_pretrained(whole).class_names == ("blue", "green", "red")
    (resumed.parent / "checkpoints" / "stream-00000012-00000.json").unlink()
    with pytest.raises(ValueError, match="continues only with as many processes"):
        train_transformer(broken, resume=True)


@pytest.mark.parametrize("name", ["steps", "batch_size", "keep"])
def test_settings_out_of_range_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        replace(stage1_config(tmp_path, tmp_path), **{name: 0})
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        replace(stage2_config(tmp_path, tmp_path, tmp_path), **{name: 0})


def test_scales_may_weigh_more_and_weights_that_do_not_fit_are_refused(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path
) -> None:
    data = image_folder()
    settings: dict = {"steps": 2, "accumulate": 2, "model": transformer_config(drop_path=0.0)}
    plain, equal, weighted = (
        stage2_config(data, tokenizer_folder, tmp_path / name, **settings, scale_weights=given)
        for name, given in (("plain", ()), ("equal", (2.0,) * 4), ("weighted", (9.0, 4.0, 1.0, 1.0)))
    )
    norms = []
    for config in (plain, equal, weighted):
        train_transformer(config)
        norms.append(lines(Path(config.out))[0]["gradient_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    assert norms[2] != pytest.approx(norms[0], rel=1e-2)
    with pytest.raises(ValueError, match="a weight for each of 4 scales, got 2"):
        train_transformer(replace(plain, out=str(tmp_path / "x"), scale_weights=(1.0, 2.0)))
    for unusable in ((0.0, 0.0), (1.0, -1.0), (float("nan"),)):
        with pytest.raises(ValueError, match="scale_weights must be at least 0 and not all 0"):
            replace(plain, scale_weights=unusable)


def test_mistakes_are_in_training_alone(tmp_path: Path, image_folder: Make, tokenizer_folder: Path) -> None:
    data = image_folder()
    still = replace(FAST, learning_rate=1e-12)
    settings: dict = {"steps": 2, "optimiser": still, "model": transformer_config(drop_path=0.0), "class_dropout": 0.0}
    found = []
    for name, share in (("plain", 0.0), ("mistaken", 0.9)):
        train_transformer(stage2_config(data, tokenizer_folder, tmp_path / name, **settings, self_correct=share))
        found.append(lines(tmp_path / name))
    assert found[1][0]["loss"] != pytest.approx(found[0][0]["loss"], rel=1e-6)
    (plain,), (mistaken,) = ([line for line in run if "heldout_loss" in line] for run in found)
    assert mistaken["heldout_loss"] == pytest.approx(plain["heldout_loss"], rel=1e-6)


def test_heldout_classes_are_matched_by_name(tmp_path: Path, image_folder: Make, tokenizer_folder: Path) -> None:
    data = image_folder()
    part = tmp_path / "part"
    for name in ("green", "red"):
        shutil.copytree(data / name, part / name)
    seen: list[list[int]] = []

    def record(_: object, classes: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(classes.tolist())
        return {"loss": torch.zeros(())}

    config, places = stage2_config(data, tokenizer_folder, tmp_path / "x"), class_places(("green", "red"), NAMES, "")
    tokenizer, source = load_tokenizer(tokenizer_folder), open_source(part)
    chosen = spread(len(source), config.heldout_images)
    measure_transformer(record, heldout_batches(source, tokenizer, (16, 16), chosen, torch.float32), config, places)
    assert seen == [[1] * 4 + [2] * 4, [3] * 8], "eight of sixteen, evenly spread"
    assert class_places((), NAMES, "") is None and class_places(NAMES, NAMES, "") is None
    (part / "red").rename(part / "purple")
    with pytest.raises(ValueError, match="its class 'purple' is none of the training data's \\(blue, green, red\\)"):
        train_transformer(stage2_config(data, tokenizer_folder, tmp_path / "x", heldout=str(part)))
    assert not (tmp_path / "x").exists()


def test_measuring_can_be_stopped_and_is_made_up_for(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_folder()
    whole, parts = (stage2_config(data, tokenizer_folder, tmp_path / name) for name in ("whole", "parts"))
    train_transformer(whole)
    with monkeypatch.context() as patch:
        stop_while(patch, stage2_module, "heldout_batches", 2)
        with pytest.raises(KeyboardInterrupt):
            train_transformer(parts)
    assert RunFolder(tmp_path / "parts").is_behind(12), "the model is that of step 6"
    train_transformer(parts, resume=True)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert not RunFolder(tmp_path / "parts").is_behind(12)
    assert "heldout_loss" in lines(tmp_path / "whole")[-1], "of images that were set aside"


def test_a_run_notices_other_data_and_follows_moved_data(
    tmp_path: Path, image_folder: Make, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_folder()
    config = stage2_config(f"{data}/", tokenizer_folder, tmp_path / "run")
    whole = stage2_config(data, tokenizer_folder, tmp_path / "whole")
    train_transformer(whole)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train_transformer(config)
    (data / "blue").rename(data / "violet")
    with pytest.raises(ValueError, match="the class 'blue' is gone and the class 'violet' is new"):
        train_transformer(config, resume=True)
    (data / "violet").rename(data / "blue")
    shutil.copy(data / "blue" / "000.png", data / "blue" / "999.png")
    with pytest.raises(ValueError, match="it had 24 images, .* holds 25"):
        train_transformer(config, resume=True)
    (data / "blue" / "999.png").unlink()
    moved, tokenizer = tmp_path / "elsewhere", tmp_path / "tokenizer-too"
    shutil.move(data, moved)
    shutil.copytree(tokenizer_folder, tokenizer)
    train_transformer(replace(config, data=str(moved), tokenizer=str(tokenizer), device="auto"), resume=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert VARPipeline.from_pretrained(tmp_path / "run").class_names == NAMES


def test_tokens_made_anew_are_other_data(tmp_path: Path, image_folder: Make, tokenizer_folder: Path) -> None:
    data, tokenizer = image_folder(), load_tokenizer(tokenizer_folder)

    def tokens(name: str, folder: Path) -> Path:
        described = TokenCacheConfig(scales=tokenizer.config.scales, codebook_size=32)
        return write_tokens(tokenizer, open_source(folder), tmp_path / name, described)

    config = stage2_config(tokens("tokens", data), tokenizer_folder, tmp_path / "run", steps=1)
    train_transformer(config)
    train_transformer(replace(config, data=str(tokens("same", data))), resume=True)
    (data / "blue").rename(data / "violet")
    with pytest.raises(ValueError, match="'violet' is new"):
        train_transformer(replace(config, data=str(tokens("other", data))), resume=True)


def test_a_run_that_began_from_a_model_needs_it_no_more(tmp_path: Path, image_folder: Make) -> None:
    make_pipeline().save_pretrained(tmp_path / "start")
    config = stage2_config(
        image_folder(),
        tmp_path / "start" / "tokenizer",
        tmp_path / "run",
        init_from=str(tmp_path / "start"),
        steps=2,
        model=transformer_config(depth=5),
        checkpoint_every=1,
    )
    train_transformer(config)
    before = weights(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-00000002.pt").unlink()
    shutil.rmtree(tmp_path / "start" / "transformer")
    train_transformer(replace(config, init_from=f"{tmp_path / 'start'}/"), resume=True)
    assert weights(tmp_path / "run") == before
