"""Model folders: written whole, read back exactly, refused by naming what does not fit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nextscale import VARPipeline
from nextscale.checkpoint import fingerprint, load_tokenizer, load_transformer, save_model
from nextscale.int8_weights import weights_of_products
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


def test_weights_in_int8_are_a_quarter_of_the_size_and_float32_when_read(tmp_path: Path) -> None:
    pipeline = make_pipeline()
    loaded = VARPipeline.from_pretrained(saved(tmp_path / "m", pipeline, torch.int8), device="cpu")
    before, after = pipeline.transformer.state_dict(), loaded.transformer.state_dict()
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    weights = weights_of_products(pipeline.transformer)
    assert len(weights) > 4 and not any("embedding" in name for name in weights)
    for name, tensor in before.items():
        if name not in weights:
            assert torch.equal(after[name], tensor.bfloat16().float())
            continue
        row = tensor[3]
        step = row.abs().max() / 127
        assert torch.equal(after[name][3], (row / step).round() * step)
        assert (after[name] - tensor).abs().max() <= tensor.abs().max() / 127 / 2 * 1.001
    stored = load_file(tmp_path / "m" / "transformer" / "model.safetensors")
    assert {tensor.dtype for name, tensor in stored.items() if name in weights} == {torch.int8}
    # The tokens are those of the same tokenizer stored in bf16.
    plain = load_tokenizer(saved(tmp_path / "plain", pipeline, torch.bfloat16))
    assert fingerprint(loaded.tokenizer) == fingerprint(plain)
    decoder = load_file(tmp_path / "m" / "tokenizer" / "model.safetensors")
    rounded = {name for name, tensor in decoder.items() if tensor.dtype == torch.int8}
    assert rounded and all(name.startswith("decoder.") for name in rounded)
    # Written in int8 again, nothing changes.
    again = saved(tmp_path / "again", loaded, torch.int8)
    for part in ("tokenizer", "transformer"):
        once, twice = (load_file(folder / part / "model.safetensors") for folder in (tmp_path / "m", again))
        assert once.keys() == twice.keys()
        assert all(torch.equal(once[name], twice[name]) for name in once if once[name].dtype == torch.int8)


def test_int8_weights_without_their_scales_are_refused(model_folder: Path, tmp_path: Path) -> None:
    pipeline = VARPipeline.from_pretrained(model_folder, device="cpu")
    path = saved(tmp_path / "m", pipeline, torch.int8) / "transformer" / "model.safetensors"
    state = load_file(path)
    name = next(name for name in state if name.endswith(".scale"))
    for wrong, found in ((None, "missing"), (state[name][:-1], "float32 of shape"), (state[name].char(), "int8")):
        others = {other: tensor for other, tensor in state.items() if other != name}
        save_file(others if wrong is None else others | {name: wrong}, path)
        with pytest.raises(ValueError, match=rf"{name.removesuffix('.scale')} is stored in int8; .*{found}"):
            load_transformer(tmp_path / "m")


def saved(folder: Path, pipeline: VARPipeline, dtype: torch.dtype) -> Path:
    save_model(folder, pipeline.config, tokenizer=pipeline.tokenizer, transformer=pipeline.transformer, dtype=dtype)
    return folder


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
