"""WebDataset archives: a sample is the files of one name in a .tar, such as `000.jpg` with `000.cls` or `000.json`.

Members are grouped in the same way for an index (which notes where the images are and copies nothing) and for a stream.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from nextscale.data.captions import CAPTIONS, NO_CAPTIONS, lines_of, named_places, require_texts, texts_in
from nextscale.data.columns import NO_LABELS, WITHOUT, may_be_label, require_no_doubt
from nextscale.data.folders import PassedOver, is_image_name, require_classes, require_no_splits, unwanted

FOLDER, CLS, JSON, LABEL, TXT = "folder", "cls", "json", "label", "txt"
PEEK = 200
"""Members read to find out an archive's layout."""

Member = tuple[str, Any]
"""A file of an archive: its name, and its header or its content."""


@dataclass(frozen=True)
class Layout:
    """How the files of an archive form samples."""

    first_dot: bool = True
    "Whether a sample's name ends at the first dot (`000.seg.png`, WebDataset's rule) or at the last (`v1.000.jpg`)."
    image: str = ""
    "Suffix of the images, in lower case; empty for any."
    label: str = ""
    "Where labels are: `folder`, a suffix in lower case, or a key of the .json file; empty for none."
    in_json: bool = False
    "Whether `label` is a key of the .json file."
    captions: tuple[str, ...] = ()
    "Where captions are: `txt`, or keys of the .json file."
    folders_asked: bool = True
    "False where the label `folder` is only a guess: the user did not ask for it, and nothing else holds labels."

    def key_and_suffix(self, name: str) -> tuple[str, str]:
        """The name of the sample that a member belongs to, and the member's suffix in lower case."""
        folder, base = posixpath.split(name)
        stem, _, suffix = base.partition(".") if self.first_dot else base.rpartition(".")
        return posixpath.join(folder, stem), suffix.lower()

    @property
    def captioned_by(self) -> str:
        """Where captions are, for messages; empty without."""
        keys = [name for name in self.captions if name != TXT]
        files = [f".{TXT} files"] if TXT in self.captions else []
        return " and ".join([*files, *([f"keys {', '.join(keys)} of .json files"] if keys else [])])

    @property
    def column(self) -> str:
        """Where labels are, for messages."""
        if self.label == FOLDER:
            return "folders of the archive"
        return f"key {self.label!r} of .json files" if self.in_json else f".{self.label} files"


@contextmanager
def opened(address: str, mode: str = "r|") -> Iterator[tarfile.TarFile]:
    """An archive on disk or at an address. Raises ValueError in one line where it is missing or damaged."""
    import fsspec

    data: Any = fsspec.open(address, "rb") if "://" in address else Path(address).open("rb")  # noqa: SIM115
    open_archive: Any = tarfile.open  # typed for literal modes only
    try:
        with data as file, open_archive(fileobj=file, mode=mode) as archive:
            yield archive
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"data {address}: cannot be read as a .tar file ({error})") from error


def headers(archive: tarfile.TarFile, passed: PassedOver) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Files of an archive, without what other programs left there."""
    for member in archive:
        name = posixpath.normpath(member.name)
        if not member.isfile():
            continue
        if kind := next(filter(None, map(unwanted, name.split("/"))), ""):
            passed.add(kind, name)
        else:
            yield name, member


def contents(archive: tarfile.TarFile, passed: PassedOver, *, images: bool = True) -> Iterator[tuple[str, bytes]]:
    """Files of an archive and their content, in order; without `images`, that of images is empty."""
    for name, member in headers(archive, passed):
        yield name, b"" if is_image_name(name) and not images else content(archive, member)


def content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The content of a file of an archive."""
    file = archive.extractfile(member)
    assert file is not None, "`headers` yields regular files only"
    return file.read()


def samples(members: Iterable[Member], layout: Layout) -> Iterator[tuple[str, dict[str, Member]]]:
    """Groups of successive members of one sample: the sample's name, and its members by suffix."""
    key, files = "", {}
    for name, member in members:
        own, suffix = layout.key_and_suffix(name)
        if files and own != key:
            yield key, files
            files = {}
        key = own
        files.setdefault(suffix, (name, member))
    if files:
        yield key, files


def images_of(files: Iterable[str], layout: Layout) -> list[str]:
    """Suffixes of a sample's images. One with a dot, as in `000.seg.png`, is something else than the image."""
    plain = [suffix for suffix in files if "." not in suffix and is_image_name(f"_.{suffix}")]
    return [suffix for suffix in files if suffix == layout.image] if layout.image else plain


def layout_of(
    file: str,
    passed: PassedOver,
    *,
    where: str,
    image_column: str = "",
    label_column: str = "",
    caption_column: str = NO_CAPTIONS,
) -> Layout:
    """The layout of an archive, from its first files. Raises ValueError where it is in doubt."""
    with opened(file) as archive:
        head = list(islice(contents(archive, passed, images=False), PEEK))
    first_dot = any(images_of([Layout().key_and_suffix(name)[1]], Layout()) for name, _ in head)
    layout = Layout(first_dot=first_dot, image=image_column.lower().removeprefix("."))
    found = [(key, files) for key, files in samples(head, layout) if images_of(files, layout)]
    if not found:
        wanted = f" of suffix {image_column}" if image_column else ""
        raise ValueError(f"data {where}: holds no images{wanted} among the first {len(head)} files of {file}")
    files = found[0][1]
    images = images_of(files, layout)
    if len(images) > 1:
        raise ValueError(
            f"data {where}: its samples hold several images ({', '.join(images)}); "
            f"name one with --image-column {images[0]}"
        )
    layout = replace(layout, **label_place(files, label_column, where, folders=any("/" in key for key, _ in found)))
    whole = [files for _, files in (found if len(head) < PEEK else found[:-1] or found)]
    return replace(layout, captions=caption_places(whole, caption_column, where, label=layout.label))


def label_place(files: dict[str, Member], asked: str, where: str, *, folders: bool) -> dict[str, Any]:
    """Fields of `Layout` that say where the labels are, from one sample. Raises ValueError where that is in doubt."""
    described = parsed(*files[JSON], where) if JSON in files else {}
    if asked == NO_LABELS:
        return {}
    suffix = asked.lower().removeprefix(".")
    if asked and suffix not in (FOLDER, *files) and asked not in described:
        keys = f" (keys {', '.join(described)})" if described else ""
        raise ValueError(f"data {where}: its samples have no {asked!r}; they hold {', '.join(files)}{keys}")
    if suffix == FOLDER:
        return {"label": FOLDER}
    if suffix in files and suffix != JSON:
        return {"label": suffix}
    if asked in described:
        return {"label": asked, "in_json": True}
    if CLS in files and not asked:
        return {"label": CLS}
    if LABEL in described:
        return {"label": LABEL, "in_json": True}
    doubtful = [name for name in (*described, *files) if may_be_label(name, None)]
    require_no_doubt(doubtful, "file or key", where)
    return {"label": FOLDER, "folders_asked": False} if folders else {}


def caption_places(heads: list[dict[str, Member]], asked: str, where: str, *, label: str) -> tuple[str, ...]:
    """Where captions are, from the files of some samples; empty for none. Raises ValueError where they are not there.

    Without being asked, .txt files are taken where all samples have one.
    """
    if asked == NO_CAPTIONS:
        return ()
    if not asked:
        return (TXT,) if label != TXT and all(TXT in files for files in heads) else ()
    suffixes = {suffix: None for files in heads for suffix in files}
    described = [parsed(*files[JSON], where) for files in heads if JSON in files]
    keys = {key: None for one in described for key in one}
    names = named_places(asked, (*suffixes, *keys))
    names = tuple(TXT if name.lower().removeprefix(".") == TXT and TXT in suffixes else name for name in names)
    for name in names:
        if name not in keys and (name != TXT or TXT not in suffixes):
            known = f" (keys {', '.join(keys)})" if keys else ""
            raise ValueError(
                f"data {where}: its samples have no captions in {name!r}; they hold {', '.join(suffixes)}{known}; "
                f"captions are in .{TXT} files or keys of .json files (--caption-column)"
            )
    return names


def captions_in(files: dict[str, Member], layout: Layout, read: Callable[[Any], bytes], where: str) -> tuple[str, ...]:
    """Captions of a sample. Raises ValueError where a key holds something else, or a file is not UTF-8."""
    cells: list[Any] = []
    described = {}
    if JSON in files and set(layout.captions) != {TXT}:
        described = parsed(files[JSON][0], read(files[JSON][1]), where)
    for place in layout.captions:
        if place != TXT:
            cells.append(require_texts(described.get(place), f"data {where}: {place!r} of {files.get(JSON, ('',))[0]}"))
        elif TXT in files:
            name, member = files[TXT]
            cells.append(lines_of(read(member), f"data {where}: {name}"))
    return texts_in(cells)


def parsed(name: str, data: bytes, where: str) -> dict[str, Any]:
    """The object in a JSON file; empty for other values. Raises ValueError."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ValueError(f"data {where}: {name} is not JSON ({error})") from error
    return found if isinstance(found, dict) else {}


def label_of(files: dict[str, Member], layout: Layout, read: Callable[[Any], bytes], where: str) -> Any:
    """A sample's label as it is written; None for a missing one."""
    suffix = JSON if layout.in_json else layout.label
    if suffix not in files:
        return None
    name, member = files[suffix]
    if layout.in_json:
        return parsed(name, read(member), where).get(layout.label)
    return read(member).decode("utf-8", errors="replace").strip()


def streamed(files: list[str], layout: Layout) -> Iterator[dict[str, Any]]:
    """Samples of archives, one archive after the other: `image` (bytes, path) and `label` as it is written."""
    for file in files:
        with opened(file) as archive:
            for _, members in samples(contents(archive, PassedOver()), layout):
                for suffix in images_of(members, layout)[:1]:
                    name, data = members[suffix]
                    label = label_of(members, layout, bytes, file)
                    row = {"image": {"bytes": data, "path": name}, "label": label}
                    yield row | ({CAPTIONS: list(captions_in(members, layout, bytes, file))} if layout.captions else {})


def indexed(
    files: list[Path], layout: Layout, passed: PassedOver
) -> tuple[Any, list[Any], list[tuple[str, ...]], list[str]]:
    """Places of the images in archives as a table of one column; labels as they are written, captions, and names."""
    import datasets
    import pyarrow as arrow

    names: list[str] = []
    labels: list[Any] = []
    captions: list[tuple[str, ...]] = []
    places: dict[str, list[Any]] = {"archive": [], "offset": [], "size": [], "time": []}
    for file in files:
        time = file.stat().st_mtime_ns
        with opened(str(file), "r:") as archive:
            for key, members in samples(headers(archive, passed), layout):
                found = images_of(members, layout)
                if not found:
                    passed.add("samples without an image", key)
                    continue
                name, header = members[found[0]]
                names.append(name)
                read = partial(content, archive)
                labels.append(label_of(members, layout, read, str(file)))
                captions.append(captions_in(members, layout, read, str(file)))
                for column, value in zip(places, (str(file), header.offset_data, header.size, time), strict=True):
                    places[column].append(value)
    columns = {"bytes": arrow.nulls(len(names), arrow.binary()), "path": names} | places
    image = arrow.StructArray.from_arrays([arrow.array(value) for value in columns.values()], list(columns))
    return datasets.Dataset(arrow.table({"image": image})), labels, captions, names


def folder_labels(names: list[str], archives: list[str], layout: Layout, where: str) -> list[str] | None:
    """Class names of members: their folders at the first level where these differ.

    Where all are in one folder, that is the class if it was asked for, else None. Raises ValueError where each archive
    has a folder of its own, which may be parts of the set instead of classes.
    """
    folders = [posixpath.dirname(name).split("/") for name in names]
    shared = len(posixpath.commonprefix(sorted(set(map(tuple, folders)))))
    classes = [folder[shared] if len(folder) > shared else "" for folder in folders]
    if len(set(classes)) == 1:
        return [folders[0][-1]] * len(names) if layout.folders_asked else None
    require_no_splits(classes, where, advice="make an archive of each")
    require_classes(classes, where)
    pairs = set(zip(archives, classes, strict=True))
    if not layout.folders_asked and len(pairs) == len(set(archives)) == len(set(classes)):
        raise ValueError(
            f"data {where}: each archive has a folder of its own; if these are classes, say so with "
            f"--label-column {FOLDER}; {WITHOUT}"
        )
    return classes
