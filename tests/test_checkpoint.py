"""Model folders: written whole, read back exactly, refused by naming what does not fit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nextscale import VARPipeline
from nextscale.checkpoint import fingerprint, load_tokenizer, load_transformer
from toys import make_pipeline, make_tokenizer


def test_a_saved_model_gives_the_same_images(tmp_path: Path) -> None:
    pipeline = make_pipeline()
    pipeline.save_pretrained(tmp_path / "m")
    loaded = VARPipeline.from_pretrained(tmp_path / "m")
    before, after = (p.generate(["red", 0], seeds=[0, 1, 2]) for p in (pipeline, loaded))
    assert torch.equal(before.tokens.packed, after.tokens.packed)
    assert [i.tobytes() for i in before.images] == [i.tobytes() for i in after.images]
    assert loaded.config == pipeline.config
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "m/config.json",
        "m/tokenizer/config.json",
        "m/tokenizer/model.safetensors",
        "m/transformer/config.json",
        "m/transformer/model.safetensors",
    ]


def test_saving_over_a_folder_leaves_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    make_pipeline(0).save_pretrained(tmp_path)
    make_pipeline(1).save_pretrained(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert fingerprint(load_tokenizer(tmp_path)) == fingerprint(make_tokenizer(1))


def test_weights_of_another_size_are_refused_by_name(model_folder: Path) -> None:
    path = model_folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": 9}))
    with pytest.raises(ValueError, match=r"class_embedding.weight is \(4, 128\), expected \(10, 128\)"):
        load_transformer(model_folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": 3, "depth": 3, "heads": 2}))
    with pytest.raises(ValueError, match=r"missing blocks\.2\..* more"):
        load_transformer(model_folder)


def test_missing_and_extra_tensors_are_named(model_folder: Path) -> None:
    path = model_folder / "tokenizer" / "model.safetensors"
    state = load_file(path)
    state["surprise"] = state.pop("quantizer.codebook")
    save_file(state, path)
    with pytest.raises(ValueError, match=r"missing quantizer.codebook; unexpected surprise"):
        load_tokenizer(model_folder)


def test_damaged_files_are_one_line(model_folder: Path) -> None:
    (model_folder / "tokenizer" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"model\.safetensors: not a readable safetensors file"):
        load_tokenizer(model_folder)
    (model_folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not a readable JSON file"):
        VARPipeline.from_pretrained(model_folder)


def test_parts_of_different_schedules_do_not_pair(model_folder: Path, tmp_path: Path) -> None:
    other = make_tokenizer(scales=((2, 2), (4, 4)))
    pipeline = VARPipeline.from_pretrained(model_folder)
    with pytest.raises(ValueError, match=r"scales \(2,4\) and the transformer's \(1,2,3,4\) differ"):
        VARPipeline(other, pipeline.transformer, pipeline.config)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing-here", "is not known; expected demo, "), ("some/repo", "the hub does not give it"), ("", "not known")],
)
def test_unknown_models_are_one_line(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        VARPipeline.from_pretrained(name)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no config.json"):
        VARPipeline.from_pretrained(tmp_path)


def test_half_precision_storage_loads_without_copies(tmp_path: Path) -> None:
    from nextscale.checkpoint import save_model

    pipeline = make_pipeline()
    save_model(
        tmp_path / "m", pipeline.config, tokenizer=pipeline.tokenizer, transformer=pipeline.transformer,
        dtype=torch.bfloat16,
    )  # fmt: skip
    loaded = load_transformer(tmp_path / "m")
    assert loaded.head.weight.dtype == torch.bfloat16
    assert load_tokenizer(tmp_path / "m").quantizer.codebook.dtype == torch.float32
    assert torch.equal(loaded.head.weight, pipeline.transformer.head.weight.bfloat16().float())


@pytest.mark.parametrize("shared", [False, True])
def test_loading_does_not_import_the_compiler(tmp_path: Path, shared: bool) -> None:
    make_pipeline(shared_adaln=shared).save_pretrained(tmp_path / "m")
    load = f"from nextscale import VARPipeline; VARPipeline.from_pretrained({str(tmp_path / 'm')!r})"
    code = f"import sys; {load}; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


def test_weights_are_as_readable_as_the_rest(model_folder: Path) -> None:
    for part in ("tokenizer", "transformer"):
        assert len({path.stat().st_mode for path in (model_folder / part).iterdir()}) == 1
