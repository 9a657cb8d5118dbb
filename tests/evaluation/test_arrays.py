"""Arrays as other tools write them: read right or refused in one line, whatever is damaged."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextscale.evaluation.image_sets import ArrayImages, batches, open_image_set
from nextscale.evaluation.statistics import StoredStatistics
from nextscale.pictures import to_uint8
from toys import toy_image

PIXELS = np.stack([np.asarray(toy_image(number % 3, number)) for number in range(7)])
GREY = PIXELS[..., 0]


def read(path: Path, batch_size: int = 3, indices: np.ndarray | None = None) -> tuple[np.ndarray, list[int]]:
    """Pixels (N, H, W, 3) and labels."""
    images = open_image_set(str(path))
    assert isinstance(images, ArrayImages)
    parts = list(batches(images, (16, 16), batch_size=batch_size, indices=indices))
    pixels = to_uint8(torch.cat([one for one, _ in parts])).permute(0, 2, 3, 1)
    return pixels.numpy(), torch.cat([labels for _, labels in parts]).tolist()


@pytest.mark.parametrize(
    ("arrays", "expected", "labels"),
    [
        ({"arr_0": PIXELS}, PIXELS, [-1] * 7),
        ({"arr_0": PIXELS.transpose(0, 3, 1, 2)}, PIXELS, [-1] * 7),
        ({"arr_0": GREY}, np.stack([GREY] * 3, axis=-1), [-1] * 7),
        ({"arr_0": GREY[..., None]}, np.stack([GREY] * 3, axis=-1), [-1] * 7),
        ({"arr_0": GREY[:, None]}, np.stack([GREY] * 3, axis=-1), [-1] * 7),
        ({"arr_0": PIXELS, "arr_1": np.array([5, 0, 5, 9, 0, 9, 9])}, PIXELS, [1, 0, 1, 2, 0, 2, 2]),
        ({"arr_0": PIXELS, "arr_1": np.arange(3)}, PIXELS, [-1] * 7),
        ({"pictures": PIXELS, "names": np.arange(7)}, PIXELS, [-1] * 7),
        ({"images": PIXELS, "labels": np.array([1, 0, 0, 0, 0, 0, 1], ">i8")}, PIXELS, [1, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_images_of_several_layouts(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    arrays: dict[str, np.ndarray],
    expected: np.ndarray,
    labels: list[int],
) -> None:
    caplog.set_level("INFO", "nextscale")
    np.savez_compressed(tmp_path / "x.npz", **arrays)  # pyright: ignore[reportArgumentType]
    pixels, known = read(tmp_path / "x.npz")
    unused = len(arrays) > 1 and labels == [-1] * 7
    assert ("passed over beside its images" in caplog.text) == unused
    assert np.array_equal(pixels, expected)
    assert known == labels
    chosen = np.array([1, 4, 6])
    pixels, known = read(tmp_path / "x.npz", indices=chosen)
    assert np.array_equal(pixels, expected[chosen])
    assert known == [labels[one] for one in chosen]


def test_an_npy_file_and_class_names(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    assert np.array_equal(read(tmp_path / "x.npy")[0], PIXELS)
    assert np.array_equal(read((tmp_path / "x.npy").rename(tmp_path / "X.NPY"))[0], PIXELS)
    np.savez(tmp_path / "x.npz", arr_0=PIXELS, arr_1=np.array([5, 0, 5, 9, 0, 9, 9]))
    images = open_image_set(str(tmp_path / "x.npz"))
    assert isinstance(images, ArrayImages) and images.class_names == ("0", "5", "9")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": PIXELS / np.float32(255)}, r"arr_0 is \(7, 16, 16, 3\) float32, expected uint8 images"),
        ({"arr_0": np.zeros((7, 16, 16, 4), np.uint8)}, r"\(7, 16, 16, 4\) uint8, expected"),
        ({"arr_0": PIXELS[0]}, r"\(16, 16, 3\) uint8, expected"),
        ({"arr_0": PIXELS[:0]}, r"\(0, 16, 16, 3\) uint8, expected"),
        ({"arr_0": np.asfortranarray(PIXELS)}, "in Fortran's order; write numpy.ascontiguousarray"),
        ({"arr_0": np.array([PIXELS[0], None], dtype=object)}, "holds Python objects, which are not unpickled"),
        ({"arr_0": PIXELS, "arr_1": np.array([0, 1, -1, 0, 1, 1, 0])}, "holds the label -1; expected numbers from 0"),
        ({"train": PIXELS, "test": PIXELS}, r"holds train \(7, 16, 16, 3\) uint8, test .*; expected arr_0"),
        ({}, "holds nothing; expected arr_0"),
        ({"mu": np.float64(0), "sigma": np.float64(1)}, r"mu is \(\) float64 and sigma \(\) float64; expected"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"mu is \(3,\) float64 and sigma \(4, 4\) float64; expected"),
        ({"mu": np.zeros(3, complex), "sigma": np.eye(3)}, "mu is complex128 .*expected real numbers"),
        ({"mu": np.array([None] * 3), "sigma": np.eye(3)}, "mu is object .*expected real numbers"),
        ({"mu": np.array([0, np.nan, 0]), "sigma": np.eye(3)}, "the mean of the features holds values that are not"),
        (
            {"mu": np.zeros(3), "sigma": np.full((3, 3), np.inf)},
            "the covariance of the features holds values",
        ),
        ({"mu": np.zeros(3), "sigma": np.triu(np.ones((3, 3)))}, "covariance of the features is not symmetric"),
        ({"mu": np.zeros(3), "sigma": np.diag([1.0, 1, -0.1])}, "has a variance below 0"),
    ],
)
def test_other_arrays_are_refused_in_one_line(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=message) as error:
        open_image_set(str(tmp_path / "x.npz"))
    assert str(tmp_path / "x.npz") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [">f8", "<f4", "f2", "i4"])
def test_statistics_of_any_real_type(tmp_path: Path, dtype: str) -> None:
    covariance = np.array([[4, 1], [1, 2]])
    np.savez(tmp_path / "x.npz", mu=np.array([1, -2]).astype(dtype), sigma=np.asfortranarray(covariance).astype(dtype))
    found = open_image_set(str(tmp_path / "x.npz"))
    assert isinstance(found, StoredStatistics) and found.origin is None
    assert torch.equal(found.values.mean, torch.tensor([1.0, -2]).double())
    assert torch.equal(found.values.covariance, torch.from_numpy(covariance).double())


def test_a_reference_batch_has_both(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", arr_0=PIXELS, mu=np.zeros(2), sigma=np.eye(2), mu_s=np.zeros(5))
    images = open_image_set(str(tmp_path / "x.npz"))
    assert isinstance(images, ArrayImages) and images.statistics is not None
    assert torch.equal(images.statistics.values.covariance, torch.eye(2).double())


def written(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "images":
        np.savez_compressed(file, arr_0=PIXELS, arr_1=np.arange(7))
    elif kind == "stored":
        np.savez(file, arr_0=PIXELS)
    elif kind == "statistics":
        np.savez_compressed(file, mu=np.zeros(5), sigma=np.eye(5))
    else:
        np.save(file, PIXELS)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["images", "stored", "statistics", "npy"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_in_one_line_or_read(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    content = bytearray(written(kind))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] ^= data.draw(st.integers(1, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    path = tmp_path / ("x.npy" if kind == "npy" else "x.npz")
    path.write_bytes(content)
    problem = ""
    try:
        images = open_image_set(str(path))
        if isinstance(images, ArrayImages):
            assert sum(len(labels) for _, labels in batches(images, images.shape[1:3], batch_size=3)) == len(images)
    except ValueError as error:
        problem = str(error)
    assert not problem or ("\n" not in problem and str(path) in problem)


def test_a_header_that_promises_too_much_is_not_believed(tmp_path: Path) -> None:
    header = io.BytesIO()
    described = {"descr": "<f8", "fortran_order": False, "shape": (16_000, 16_000)}
    np.lib.format.write_array_header_1_0(header, described)
    mean = io.BytesIO()
    np.save(mean, np.zeros(16_000))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("mu.npy", mean.getvalue())
        archive.writestr("sigma.npy", header.getvalue() + b"\0" * 100)
    with pytest.raises(ValueError, match=r"sigma ends before all of \(16000, 16000\) float64 is there"):
        open_image_set(str(tmp_path / "x.npz"))
