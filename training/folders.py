"""Pictures from folders: labelled photos in random views, and outliers.

    >>> classes_of("jeans", ["Trouser", "Coat"], {"jean": ["Trouser"]})
    ['Trouser']
    >>> read_outliers(Path("cats"), Garment(size=28)).shape     # all files of the tree
    (200, 28, 28)

Training and evaluation read their photos here. Without torch, which would slow down the
start of each process.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from tqdm import tqdm

from model.artifact import printable
from model.images import ImageError, Pixels, TooLargeError
from model.preprocessing import Preprocessing
from synthetic.parallel import parallel_map

VIEW_SIDE = 256  # pixels, longest side of a photo that views are made of
MAX_PERSPECTIVE = 0.12  # of each side, for each corner of a view on its own
COLOUR_JITTER = 0.3  # greatest change of brightness, contrast and colour
CROPS = 4  # of each photo, too small to show a class
CROP_SIDES = 0.1, 0.45  # of the photo's sides
PLAIN_SHARE = 0.5  # of the crops, which are resized alone, not preprocessed
MAX_FILE_BYTES = 128 * 1024**2  # no larger file is read
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}  # of Windows and macOS


class LeftOut(NamedTuple):
    """A file or folder that is not used, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        """Return both in one printable line."""
        return printable(f"{self.path}: {self.reason}")


class PhotoViews(NamedTuple):
    """One photo as inputs of the network."""

    pixels: Pixels  # uint8 input_shape, as the service preprocesses it
    views: Pixels  # uint8 [V, *input_shape], random
    crops: Pixels  # uint8 [CROPS, *input_shape], random
    split_hash: NDArray[np.int64]  # [], of the file's bytes


def classes_of(
    folder: str, classes: Sequence[str], aliases: Mapping[str, list[str]]
) -> list[str]:
    """Return the classes that the photos of a folder may be; none if it is unknown."""
    names = {_plain(name): [name] for name in classes}
    names |= {_plain(name): found for name, found in aliases.items()}
    plain = _plain(folder)
    forms = [plain, plain.removesuffix("s"), plain.removesuffix("es")]
    return next((names[form] for form in forms if form in names), [])


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def describe_folders(
    names: Sequence[str], classes: Sequence[str], aliases: Mapping[str, list[str]]
) -> list[str]:
    """Return lines of the folders of photos: their classes, or that they have none.

    `names` has the folder of each photo.
    """
    known = {_plain(name): name for name in [*classes, *aliases]}
    lines = []
    for name, count in sorted(Counter(names).items()):
        found = classes_of(name, classes, aliases)
        close = get_close_matches(_plain(name), known, 1) if not found else []
        hint = "".join(f"; is it {known[match]}?" for match in close)
        meaning = " or ".join(found) or f"none of the classes{hint}"
        lines.append(printable(f"  {name}/ {count} files: {meaning}"))
    if not all(classes_of(name, classes, aliases) for name in names):
        lines.append(f"  folders of classes: {', '.join(known.values())}")
    return lines


def find_photos(
    folder: Path, classes: Sequence[str], aliases: Mapping[str, list[str]]
) -> tuple[list[Path], list[str]]:
    """Return the files of `folder/<class>/**`, and the name of each one's folder.

    Raises `ValueError` if no folder names a class.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    files = [file for file in find_files(folder) if file.parent != folder]
    names = [file.relative_to(folder).parts[0] for file in files]
    if not any(classes_of(name, classes, aliases) for name in names):
        for line in describe_folders(names, classes, aliases):
            tqdm.write(line)
        raise ValueError(f"{folder} has no folder named for a class, such as dress/")
    return files, names


def find_files(folder: Path) -> list[Path]:
    """Return the files of a folder tree, as `scan`; print what else is there."""
    files, left_out = scan(folder)
    for item in left_out:
        tqdm.write(str(item))
    return files


def scan(
    folder: Path, visited: Iterable[Path] = ()
) -> tuple[list[Path], list[LeftOut]]:
    """Return the files of a folder tree, sorted, and what cannot be read.

    Links are followed, to each folder once, and not to those `visited` before. Hidden
    files and those of the system are left out.
    """
    files: list[Path] = []
    left_out: list[LeftOut] = []
    done = {os.path.realpath(path) for path in visited}

    def report(error: OSError) -> None:
        left_out.append(LeftOut(Path(error.filename), str(error.strerror)))

    for root, folders, names in os.walk(folder, onerror=report, followlinks=True):
        here = os.path.realpath(root)
        if here in done:
            folders.clear()
            continue
        done.add(here)
        folders[:] = sorted(name for name in folders if not is_ignored(name))
        for path in (Path(root, name) for name in names if not is_ignored(name)):
            fault = fault_of_file(path)
            if fault:
                left_out.append(LeftOut(path, fault))
            else:
                files.append(path)
    return sorted(files), left_out


def is_ignored(name: str) -> bool:
    """Return whether a file is hidden, or kept by the system for itself."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def fault_of_file(path: Path) -> str:
    """Return why a path is no file with content, or an empty text if it is one."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else "missing"
    except (OSError, ValueError) as error:  # ValueError: a null character
        return getattr(error, "strerror", None) or str(error)
    return "" if stat.S_ISREG(status.st_mode) else "not a file"


def read_file(file: Path) -> bytes:
    """Return the bytes of a file. Raises `OSError`, `TooLargeError`."""
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_size > MAX_FILE_BYTES:
            raise TooLargeError(f"over {MAX_FILE_BYTES // 1024**2} MB")
        return opened.read()


def reason_of(error: Exception) -> str:
    """Return the message of an error while a file is read, without its path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def load_all_views(
    files: Sequence[Path], views: int, preprocessing: Preprocessing
) -> Iterator[PhotoViews | None]:
    """Load views of each photo on all cores, with a progress bar."""
    rows = [(file, seed, views, preprocessing) for seed, file in enumerate(files)]
    return parallel_map(load_views, rows, "photos")


def load_views(
    file: Path, seed: int, views: int, preprocessing: Preprocessing
) -> PhotoViews | None:
    """Return random views and crops of a photo, or None if the file is no picture."""
    try:
        data = read_file(file)
        image = preprocessing.decode(data)
    except (ImageError, OSError):
        return None
    split_hash = np.array(int(hashlib.sha256(data).hexdigest()[:8], 16))
    pixels = preprocessing.preprocess(image)
    image.thumbnail((VIEW_SIDE, VIEW_SIDE), reducing_gap=2.0)
    random = np.random.default_rng(seed)
    varied = [image, *(random_view(image, random) for _ in range(views - 1))]
    return PhotoViews(
        pixels,
        np.stack([preprocessing.preprocess(view) for view in varied]),
        np.stack([random_crop(image, random, preprocessing) for _ in range(CROPS)]),
        split_hash,
    )


def random_view(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Change perspective, brightness, contrast and colour of a photo a little."""
    width, height = image.size
    corners = random.uniform(0, MAX_PERSPECTIVE, (4, 2)) * image.size
    corners = np.abs(corners - [(0, 0), (0, height), (width, height), (width, 0)])
    image = image.transform(
        image.size,
        Image.Transform.QUAD,
        corners.ravel().tolist(),
        Image.Resampling.BILINEAR,
    )
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(
            random.uniform(1 - COLOUR_JITTER, 1 + COLOUR_JITTER)
        )
    return image


def random_crop(
    image: Image.Image, random: np.random.Generator, preprocessing: Preprocessing
) -> Pixels:
    """Cut a small piece of a photo, and preprocess it or only resize it."""
    size = np.array(image.size)
    window = (size * random.uniform(*CROP_SIDES)).clip(4).astype(int)
    corner = random.integers(0, np.maximum(size - window, 1))
    crop = image.crop((*corner.tolist(), *(corner + window).tolist()))
    if random.random() >= PLAIN_SHARE:
        return preprocessing.preprocess(crop)
    side = preprocessing.size
    crop = crop.resize((side, side), Image.Resampling.BOX)
    return np.asarray(crop.convert("L" if preprocessing.channels == 1 else "RGB"))


def read_outliers(path: Path, preprocessing: Preprocessing) -> Pixels:
    """Read a folder of pictures, or `images` of an NPZ: uint8 [N, *input_shape].

    Raises `ValueError` if there is nothing to read.
    """
    if path.is_dir():
        return read_pictures(path, find_files(path), preprocessing)[1]
    with path.open("rb") as file:
        try:  # NumPy raises any kind of error on damaged files
            with np.load(file) as arrays:
                pixels: Pixels = np.asarray(arrays["images"])
        except Exception as error:
            raise ValueError(f"{path} is no NPZ file with images") from error
    shape = preprocessing.input_shape
    if pixels.dtype != np.uint8 or pixels.shape[1:] != shape or not len(pixels):
        sizes = ", ".join(map(str, shape))
        raise ValueError(f"{path}: images must be uint8 [N, {sizes}]")
    return pixels


def read_outlier_sets(
    paths: Sequence[Path], preprocessing: Preprocessing
) -> dict[str, Pixels]:
    """Read sets of outliers, named after their files. Raises `ValueError`."""
    sets: dict[str, Pixels] = {}
    for path in paths:
        name = path.resolve().name.removesuffix(".npz")
        if name in sets:
            raise ValueError(f"two sets are named {name}")
        sets[name] = read_outliers(path, preprocessing)
    return sets


def read_pictures(
    folder: Path, files: Sequence[Path], preprocessing: Preprocessing
) -> tuple[list[int], Pixels]:
    """Preprocess pictures as the service does: uint8 [N, *input_shape].

    The first value is the indices of the N files that are pictures. Raises
    `ValueError`, with the name of their folder, if none is.
    """
    indices, pixels = [], []
    for index, file in enumerate(tqdm(files, unit="picture", leave=False)):
        try:
            pixels.append(preprocessing.to_pixels(read_file(file)))
        except (ImageError, OSError) as error:
            tqdm.write(str(LeftOut(file, reason_of(error))))
            continue
        indices.append(index)
    if not indices:
        raise ValueError(f"no pictures in {folder}")
    return indices, np.stack(pixels)
