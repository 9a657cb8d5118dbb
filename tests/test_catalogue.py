"""Models by name: the authors' files by path, from a hub cache, and what is missing."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nextscale import VARPipeline
from nextscale.catalogue import find_model, models_in
from nextscale.families import family_of
from nextscale.official import save_official
from nextscale.published import OFFICIAL_REPOSITORY, OFFICIAL_TOKENIZER, PUBLISHED
from toys import make_pipeline, make_tokenizer, make_transformer


def official_files(folder: Path, name: str = "var_d16.pth", **changes: object) -> VARPipeline:
    """A toy model under the authors' file names; returns the model."""
    pipeline = make_pipeline(**changes)
    pipeline.tokenizer = make_tokenizer(patch=1)
    folder.mkdir(parents=True, exist_ok=True)
    save_official(folder, pipeline.tokenizer, pipeline.transformer)
    (folder / "vae_ch16v32z8.pth").rename(folder / OFFICIAL_TOKENIZER)
    (folder / "var_d2.pth").rename(folder / name)
    return pipeline


def hub_cache(root: Path, monkeypatch: pytest.MonkeyPatch, repository: str = OFFICIAL_REPOSITORY) -> Path:
    """An empty snapshot of a repository in the hub client's own layout."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place = root / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("c" * 40)
    return place / "snapshots" / ("c" * 40)


def test_a_transformer_file_with_its_tokenizer_beside_it(tmp_path: Path) -> None:
    made = official_files(tmp_path, "mine.pth")
    loaded = VARPipeline.from_pretrained(tmp_path / "mine.pth")
    expected = made.generate([0, 1], seeds=[3, 4], guidance=1.5, top_k=0, top_p=0.9)
    result = loaded.generate([0, 1], seeds=[3, 4], guidance=1.5, top_k=0, top_p=0.9)
    assert torch.equal(result.tokens.packed, expected.tokens.packed)
    assert find_model(tmp_path / "mine.pth").place == f"{tmp_path / OFFICIAL_TOKENIZER}, {tmp_path / 'mine.pth'}"


def test_a_thousand_classes_are_imagenets(tmp_path: Path) -> None:
    official_files(tmp_path, classes=1000)
    loaded = VARPipeline.from_pretrained(tmp_path / "var_d16.pth")
    assert loaded.class_ids(["golden retriever", "tinca tinca", "7"]) == [207, 0, 7]
    assert (loaded.config.guidance, loaded.config.top_k, loaded.config.top_p) == (1.5, 900, 0.96)


def test_a_tokenizer_file_alone(tmp_path: Path) -> None:
    official_files(tmp_path)
    stored = find_model(tmp_path / OFFICIAL_TOKENIZER)
    assert stored.config().kind == "tokenizer"
    assert stored.tokenizer().config.scales[-1] == (16, 16), "the published 256 x 256 schedule"
    with pytest.raises(ValueError, match="holds a tokenizer but no transformer"):
        VARPipeline.from_pretrained(tmp_path / OFFICIAL_TOKENIZER)


def test_a_transformer_file_without_its_tokenizer(tmp_path: Path) -> None:
    official_files(tmp_path)
    (tmp_path / OFFICIAL_TOKENIZER).unlink()
    with pytest.raises(ValueError, match=rf"put {OFFICIAL_TOKENIZER} into the same folder"):
        VARPipeline.from_pretrained(tmp_path / "var_d16.pth")


def test_official_names_read_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = official_files(hub_cache(tmp_path, monkeypatch), "var_d20.pth")
    loaded = VARPipeline.from_pretrained("var-d20")
    assert torch.equal(loaded.transformer.state_dict()["head.weight"], made.transformer.head.weight)
    assert find_model("vae-ch160v4096z32").config().kind == "tokenizer"


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_offline_one_line_says_which_files_to_put_where(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_cache(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="does not give") as error:
        find_model(name)
    files = [path.rpartition("/")[2] for path in (OFFICIAL_TOKENIZER, *PUBLISHED[name].files)]
    assert f"put {' and '.join(files)} into one folder" in str(error.value)
    assert "\n" not in str(error.value)
    folder, given = tmp_path / "FOLDER", str(error.value).rpartition("--model ")[2]
    made = official_files(folder, "made.pth")
    for file in files[1:]:
        shutil.copy(folder / "made.pth", folder / file)
    (folder / "made.pth").unlink()
    assert find_model(given.replace("FOLDER", str(folder))).tokenizer().config.patch == made.tokenizer.config.patch


def test_weights_that_others_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the settings they are sampled with, and whose they are told."""
    official_files(hub_cache(tmp_path, monkeypatch))
    others = hub_cache(tmp_path, monkeypatch, "sinaalemohammad/Neon")
    made = official_files(others, "Neon_VARd16_imagenet256.pth")
    with caplog.at_level("INFO", "nextscale"):
        loaded = VARPipeline.from_pretrained("neon-d16")
    assert torch.equal(loaded.transformer.state_dict()["head.weight"], made.transformer.head.weight)
    assert (loaded.config.guidance, loaded.config.top_k, loaded.config.top_p) == (2.9, 900, 0.95)
    assert "arXiv 2510.03597); weights of sinaalemohammad/Neon, licence MIT" in caplog.text


def test_two_published_models_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official_files(hub_cache(tmp_path, monkeypatch))
    folder = hub_cache(tmp_path, monkeypatch, "Zigeng/VAR_CoDe")
    draft, refiner = (official_files(folder, f"{name}_1.pth").transformer for name in ("drafter", "refiner"))
    pair = {"test": replace(PUBLISHED["code-8"], files=("drafter_1.pth", "refiner_1.pth"), switch=1)}
    monkeypatch.setattr("nextscale.catalogue.PUBLISHED", pair)
    loaded = VARPipeline.from_pretrained("test")
    assert (loaded.config.kind, loaded.config.guidance, loaded.config.top_k) == ("pair", 1.5, 600)
    assert loaded.transformer.switch == 1
    for part, model in (("draft", draft), ("refiner", refiner)):
        found = getattr(loaded.transformer, part).state_dict()["head.weight"]
        assert torch.equal(found, model.state_dict()["head.weight"])


def test_every_published_pair_switches_where_its_name_says() -> None:
    for name, published in PUBLISHED.items():
        assert bool(published.switch) == name.startswith("code-") == (len(published.files) == 2)
        if published.switch:
            assert name == f"code-{published.switch}"
            assert published.files == (f"drafter_{published.switch}.pth", f"refiner_{published.switch}.pth")
        assert published.licence == "MIT" and "arXiv" in published.about


def test_transformers_alone_are_not_paired_with_a_guess(tmp_path: Path) -> None:
    official_files(tmp_path)
    (tmp_path / OFFICIAL_TOKENIZER).rename(tmp_path / "vae_one.pth")
    assert find_model(tmp_path / "var_d16.pth").tokenizer().config.codebook_size == 32
    save_official(tmp_path, make_tokenizer(patch=1), make_transformer())
    with pytest.raises(ValueError, match=r"2 tokenizers are beside it \(vae_ch16v32z8.pth and vae_one.pth\)"):
        find_model(tmp_path / "var_d16.pth")


def test_the_raster_demo_stands_beside_the_demo() -> None:
    demo, raster = (VARPipeline.from_pretrained(name) for name in ("demo", "demo-raster"))
    assert family_of(raster.transformer.config).kind == "raster"
    assert raster.schedule.sizes == (demo.schedule.final,)
    assert raster.class_names == demo.class_names
    assert raster.generate("maze", seeds=[0]).images[0].size == demo.generate("maze", seeds=[0]).images[0].size


def test_models_in_a_folder(tmp_path: Path) -> None:
    made = make_pipeline()
    official_files(tmp_path / "official")
    for place in ("b", "runs/a", "runs/finished/model"):
        made.save_pretrained(tmp_path / place)
    (tmp_path / "runs" / "unfinished" / "transformer").mkdir(parents=True)
    (tmp_path / "runs" / "unfinished" / "checkpoints").mkdir()
    for part in (".", "transformer"):
        (tmp_path / "runs" / "unfinished" / part / "config.json").write_text("{}")
    found = models_in(tmp_path)
    assert set(found) == {"b", "runs/a", "runs/finished", "official/var_d16.pth"}
    assert all(place == str(tmp_path / name) for name, place in found.items())
    for place in found.values():
        find_model(place).config()
    assert models_in(tmp_path / "b") == {".": str(tmp_path / "b")}
    with pytest.raises(ValueError, match="missing: there is no such folder"):
        models_in(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no model that generates, and no folder below it does"):
        models_in(tmp_path / "empty")
