"""How a corpus is named on the command line.

    FOLDER                     a folder of images, with all folders below it
    FOLDER                     a folder of shards of one kind, *.tar, *.arrow or *.parquet, and no
                               images, with all folders below it; or what Hugging Face datasets'
                               save_to_disk made
    FILE or PATTERN            tar, Arrow or Parquet files: data-*.arrow, rs3-{0000..0031}.tar
    FOLDER, FILE or PATTERN    of rasters or large images, cut in chips: naip/*.tif?chip=256
    FILE.csv                   images named in the first column, in folders beside the file
    PRESET:FOLDER              a data set as people hold it on disk (see PRESETS)

`?name=value&...` after a path sets options: image=COLUMN and key=COLUMN (or key=row) for Arrow
and Parquet; image=EXTENSION and key=member for tar; chip=PIXELS, nodata=FRACTION, urban=POLYGONFILE
and resolution=METRES for what is cut; bands=ORDER and scale=MIN,MAX (or scale=p2,p98) for any
images that do not say these themselves. `folder:PATH` says that a folder is to be taken as images.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from core.errors import UserError
from data.corpus.base import Corpus, path_of_key
from data.corpus.folder import IMAGES, FolderCorpus, is_folder, walk
from data.corpus.found import SUFFIXES, one_snapshot, shard_files
from data.corpus.sharded.hub import open_arrow, read_json
from data.corpus.sidecars import sidecar

RASTERS = {".tif", ".tiff", ".jp2"}
USA1M = 1.0  # metres a pixel of USA-1m: NAIP of 0.3 and 0.6 m is brought to it
PEEKED = 8  # files of a folder of TIFFs whose tags are looked at
FORMS = (
    "FOLDER           a folder of image files, with all folders below it",
    "FOLDER           of *.tar, *.arrow or *.parquet shards; or made by datasets' save_to_disk",
    "FILE or PATTERN  of such shards: data-*.arrow, rs3-train-{0000..0031}.tar",
    "FOLDER or FILE   of rasters or large images, in chips: FOLDER?chip=256, 'x/*.tif?chip=256'",
    "FILE.csv         images named in its first column, in folders beside it",
    "PRESET:FOLDER    a data set as people hold it:",
)
Options = Mapping[str, str]


def open_corpus(spec: Path | str) -> Corpus:
    """The corpus that a specification means (the module's docstring has the forms).

    Raises UserError when nothing is there, nothing is in it, or it is of no known kind.
    """
    spec = os.fspath(spec)
    place, options = split_options(spec)
    prefix, colon, rest = place.partition(":")
    if colon and prefix in PRESETS and rest:
        # A shell leaves the tilde alone after a colon, in quotes and in --corpus=~/x.
        folder = Path(os.path.expanduser(rest))  # noqa: PTH111
        if not folder.is_dir():
            raise UserError(f"{spec}: {folder} is not a folder")
        return PRESETS[prefix][0](spec, folder, options)
    place = os.path.expanduser(place)  # noqa: PTH111 (as a text: slashes at its end matter not)
    path = Path(place)
    if path.is_dir():
        return _open_folder(spec, path, options)
    if path.is_file() or _is_pattern(place):
        files = [path] if path.is_file() else expand(place)
        base = path.parent if path.is_file() else _fixed(place)
        return _open_files(spec, base, files, options)
    raise _not_understood(spec, path)


_OPTION = r"(?:urban=[^?&]+|\w+=[^?&/]+)"  # of a path, a slash is no sign of a pattern


def split_options(spec: str) -> tuple[str, dict[str, str]]:
    """'PATH?a=b&c=d' as ('PATH', {'a': 'b', 'c': 'd'})."""
    match = re.search(rf"\?({_OPTION}(?:&{_OPTION})*)$", spec)
    if match is None:
        return spec, {}
    pairs = (pair.partition("=") for pair in match[1].split("&"))
    return spec[: match.start()], {name: value for name, _, value in pairs}


def expand(pattern: str) -> list[Path]:
    """The files of a pattern with braces ({a,b}, {0000..0031}) and wildcards, in order.

    Raises UserError when a name that braces spell out is not there, or a wildcard finds nothing.
    """
    import glob

    found: list[str] = []
    missing: list[str] = []
    for name in _braces(pattern):
        there = sorted(glob.glob(name)) if glob.has_magic(name) else [name]  # noqa: PTH207
        present = [path for path in there if Path(path).is_file()]
        found += present
        if not present:
            missing.append(name)
    if missing:
        what = "no such file" if found else "nothing there"
        also = f" ({len(missing):,} missing, {len(found):,} there)" if found else ""
        raise UserError(f"{missing[0]}: {what}{also}; asked for by {pattern}")
    return [Path(path) for path in dict.fromkeys(found)]


def _braces(text: str) -> Iterator[str]:
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        yield text
        return
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        padded = [end for end in span.groups() if end.startswith("0")]
        width, first, last = max(map(len, padded), default=0), int(span[1]), int(span[2])
        numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        choices: Sequence[str] = [f"{n:0{width}d}" for n in numbers]
    else:
        choices = match[1].split(",")
    for choice in choices:
        yield from _braces(text[: match.start()] + choice + text[match.end() :])


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[{")


def _fixed(pattern: str) -> Path:
    """The folder before the first part of a pattern that varies: what shards are named from."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if _is_pattern(part))
    return Path(*parts[: min(fixed, len(parts) - 1)]) if fixed else Path()


def _open_folder(spec: str, folder: Path, options: Options) -> Corpus:
    saved = _saved_files(folder)
    if saved is not None:
        return _open_files(spec, folder, saved, options, folder)
    rasters: list[Path] = []
    others = False  # images of another kind, or folders that may hold some
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        suffix = Path(entry.name).suffix.lower()
        if suffix in RASTERS and not is_folder(entry):
            rasters.append(Path(entry.path))
        elif suffix in IMAGES or is_folder(entry):
            others = True
    if "chip" in options or (rasters and not others and _are_geotiffs(rasters)):
        return _open_rasters(spec, folder, options)
    files = None if rasters else shard_files(folder)
    if files is None:
        return _images(spec, folder, options)
    return _open_files(spec, folder, files, options, folder)


def _are_geotiffs(files: Sequence[Path]) -> bool:
    """Whether TIFFs are rasters to cut, not images: NAIP's by name, or four bands by a few tags."""
    from data.images.bands import is_naip

    if any(is_naip(path.name) for path in files):
        return True
    from data.images.raster import is_multiband_geotiff

    return any(is_multiband_geotiff(os.fspath(path)) for path in sorted(files)[:PEEKED])


def _open_rasters(spec: str, folder: Path, options: Options, *, infrared: bool = False) -> Corpus:
    """All rasters and images anywhere below a folder, to be cut; of USA-1m its GeoTIFFs alone."""
    from data.corpus.rasters.geotiff import RasterCorpus

    suffixes = (".tif", ".tiff") if infrared else IMAGES
    left_out: Counter[str] = Counter()
    files = _below(folder, *suffixes, left_out=left_out)
    if not files:
        raise UserError(f"{spec}: no {'.tif' if infrared else 'image'} files in {folder}, nor "
                        "below it")  # fmt: skip
    metres = USA1M if infrared else 0.0
    return RasterCorpus(spec, folder, files, options, folder, infrared=infrared, metres=metres,
                        left_out=left_out)  # fmt: skip


def _usa1m(spec: str, folder: Path, options: Options) -> Corpus:
    return _open_rasters(spec, folder, options, infrared=True)


def _images(spec: str, folder: Path, options: Options) -> Corpus:
    if "chip" in options:
        return _open_rasters(spec, folder, options)
    stated, others = _split(options)
    if others:
        raise UserError(f"{spec}: a folder of images has no option '{next(iter(others))}'")
    return _prepared(spec, FolderCorpus(folder), stated)


def _split(options: Options) -> tuple[dict[str, str], dict[str, str]]:
    """The options that say how images are read, and those of the container."""
    stated = {name: value for name, value in options.items() if name in ("bands", "scale")}
    return stated, {name: value for name, value in options.items() if name not in stated}


def _prepared(spec: str, corpus: Corpus, stated: Options) -> Corpus:
    if not stated:
        return corpus
    from data.corpus.prepared import PreparedCorpus

    return PreparedCorpus(spec, corpus, stated.get("bands", ""), stated.get("scale", ""))


def _open_files(
    spec: str, base: Path, files: Sequence[Path], options: Options, root: Path | None = None
) -> Corpus:
    if not files:
        raise UserError(f"{spec}: no shards in it")
    if root is not None:
        one_snapshot(root, files)
    suffixes = {path.suffix.lower() for path in files}
    if suffixes <= RASTERS or ("chip" in options and suffixes <= IMAGES):
        from data.corpus.rasters.geotiff import RasterCorpus

        return RasterCorpus(spec, base, files, options, root)
    stated, options = _split(options)
    kinds = {SUFFIXES.get(suffix) for suffix in suffixes}
    corpus: Corpus
    if suffixes == {".csv"} and len(files) == 1:
        from data.corpus.listed import ListedCorpus

        corpus = ListedCorpus(spec, files[0], [files[0].parent], options)
    elif kinds == {"tar"}:
        from data.corpus.sharded.tar import TarCorpus

        corpus = TarCorpus(spec, base, files, options, root)
    elif len(kinds) > 1 or kinds == {None}:
        odd = next(path for path in files if SUFFIXES.get(path.suffix.lower()) != "tar")
        raise _not_understood(spec, odd)
    elif kinds == {"arrow"}:
        corpus = open_arrow(spec, base, files, options, root)
    else:
        from data.corpus.sharded.columnar import ParquetCorpus

        corpus = ParquetCorpus(spec, base, files, options, root)
    return _prepared(spec, corpus, stated)


def _saved_files(folder: Path) -> list[Path] | None:
    """The Arrow files of a save_to_disk folder (all its splits), in order; None if it is none."""
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        names = [str(name) for name in read_json(splits).get("splits") or []]
        files = [(_saved_files(folder / name), folder / name) for name in names]
        lacking = [place for found, place in files if not found]
        if lacking or not names:
            raise UserError(f"{lacking[0] if lacking else splits}: no saved data set in it")
        return [path for found, _ in files for path in found or []]
    state = folder / "state.json"
    if not state.is_file() or not (folder / "dataset_info.json").is_file():
        return None
    try:
        return [folder / entry["filename"] for entry in read_json(state)["_data_files"]]
    except (KeyError, TypeError):
        raise UserError(
            f"{state}: does not list the files of a saved data set ('_data_files'); save it again, "
            f"or name its files: '{folder}/*.arrow'"
        ) from None


def _below(folder: Path, *suffixes: str, left_out: Counter[str] | None = None) -> list[Path]:
    """Files with one of some suffixes anywhere below a folder, in the order of their paths.

    Links to folders are followed, as in a folder of images. A link that leads nowhere is among
    the files, so that what it stands for is missed. The others are counted in `left_out`.
    """
    files = []
    for key, _ in walk(folder, left_out):
        path = folder / path_of_key(key)
        if path.suffix.lower() in suffixes and (path.is_file() or path.is_symlink()):
            files.append(path)
        elif left_out is not None:
            left_out[sidecar(key) or path.suffix.lower() or path.name] += 1
    return sorted(files, key=lambda path: os.fsencode(path.relative_to(folder)))


def _git10m(spec: str, folder: Path, options: Options) -> Corpus:
    saved = _saved_files(folder)
    if saved is not None:
        return _open_files(spec, folder, saved, options, folder)
    for suffix in (".arrow", ".parquet"):
        if files := _below(folder, suffix):
            return _open_files(spec, folder, files, options, folder)
    images = folder / "images"
    return _images(spec, images if images.is_dir() else folder, options)


def _rs5m(spec: str, folder: Path, options: Options) -> Corpus:
    if files := _below(folder, ".tar"):
        return _open_files(spec, folder, files, options, folder)
    lists = sorted(p for p in folder.glob("[!.]*") if p.suffix.lower() == ".csv")
    if len(lists) > 1:
        names = ", ".join(path.name for path in lists)
        raise UserError(f"{spec}: several lists ({names}); name one: --corpus {lists[0]}")
    if lists:
        return _open_files(spec, folder, lists, options)
    images = folder / "img_only"
    return _images(spec, images if images.is_dir() else folder, options)


PRESETS: dict[str, tuple[Callable[[str, Path, Options], Corpus], str]] = {
    "git10m": (
        _git10m,
        "Git-10M: saved by datasets, its *.arrow or *.parquet anywhere below, or images/",
    ),
    "rs5m": (_rs5m, "RS5M: its tars anywhere below, or a CSV list beside img_only/, or that"),
    "usa1m": (
        _usa1m,
        "NAIP quarter quads (GeoTIFF: red, green, blue, near infrared) anywhere below, in chips of "
        "256 pixels at 1 m",
    ),
    "folder": (_images, "image files and nothing else, whatever lies between them"),
}
"""Name -> (reader, what it reads)."""


def _not_understood(spec: str, path: Path) -> UserError:
    there = path.exists()
    state = f"{path.name} is not a kind of corpus that is understood" if there else "no such corpus"
    forms = "\n  ".join((*FORMS, *(f"  {n}: {text}" for n, (_, text) in PRESETS.items())))
    hint = " (decompress it first)" if re.search(r"\.(tgz|tar\.\w+)$", path.name) else ""
    return UserError(f"{spec}: {state}{hint}; understood are:\n  {forms}")
