"""Pictures from folders: labelled photos in many views, and strangers.

    >>> classes_of("jeans", ["Trouser", "Coat"], {"jean": ["Trouser"]})
    ['Trouser']
    >>> read_unknown(Path("cats")).shape                 # every file of the tree
    (200, 28, 28)

Training and evaluation read their photos here, all by way of `images`; no torch.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from tqdm import tqdm

from model.images import SIDE, ImageError, Pixels, decode, preprocess, see, to_pixels
from synthetic.parallel import parallel_map

SCRAPS = 4  # pieces of each photo too small to show a garment
VIEW_SIDE = 256  # pixels, longest side of a photo that views are cut from
MAX_CROP = 0.12  # of each side, for each corner of a view on its own
LIGHT = 0.3  # how far brightness, contrast and colour vary
SCRAP_SHARES = 0.1, 0.45  # of the photo's sides
GREY_SHARE = 0.5  # of the scraps, as plain grey pixels


class Looks(NamedTuple):
    """One photo, as the network may see it."""

    seen: Pixels  # uint8 [28, 28], what the service makes of it
    views: Pixels  # uint8 [V, 28, 28], varied
    scraps: Pixels  # uint8 [SCRAPS, 28, 28], pieces
    lot: NDArray[np.int64]  # [], a number by its bytes, to set some photos aside by


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


def find_photos(
    folder: Path, classes: Sequence[str], aliases: Mapping[str, list[str]]
) -> tuple[list[Path], list[str]]:
    """List the files of `folder/<name of class>/**`, and the folder of each.

    Raises `ValueError` if no folder names a class: then it is not such a tree.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    files = [file for file in find_files(folder) if file.parent != folder]
    names = [file.relative_to(folder).parts[0] for file in files]
    if not any(classes_of(name, classes, aliases) for name in names):
        raise ValueError(f"{folder} has no folder named for a class, such as dress/")
    return files, names


def find_files(folder: Path) -> list[Path]:
    """List the files of a folder tree, and of those it links to, each once, sorted.

    Hidden ones are left aside.
    """
    files: list[Path] = []
    seen: set[Path] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here = Path(root)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [here / name for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.is_file())


def look_at_all(files: Sequence[Path], views: int) -> Iterable[Looks | None]:
    """Look at each photo on all cores, with a progress bar."""
    rows = [(file, seed, views) for seed, file in enumerate(files)]
    return parallel_map(look, rows, "photos")


def look(file: Path, seed: int, views: int) -> Looks | None:
    """See one photo in many ways, or None if the file is no picture."""
    data = file.read_bytes()
    try:
        image = decode(data)
    except ImageError:
        return None
    lot = np.array(int(hashlib.sha256(data).hexdigest()[:8], 16))
    seen = see(image)
    image.thumbnail((VIEW_SIDE, VIEW_SIDE), reducing_gap=2.0)
    random = np.random.default_rng(seed)
    varied = [see(image)]
    varied += [see(vary(image, random)) for _ in range(views - 1)]
    scraps = [scrap(image, random) for _ in range(SCRAPS)]
    return Looks(seen, np.stack(varied), np.stack(scraps), lot)


def vary(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Cut, tilt, skew and relight a photo a little."""
    width, height = image.size
    corners = random.uniform(0, MAX_CROP, (4, 2)) * image.size
    corners = np.abs(corners - [(0, 0), (0, height), (width, height), (width, 0)])
    image = image.transform(
        image.size,
        Image.Transform.QUAD,
        corners.ravel().tolist(),
        Image.Resampling.BILINEAR,
    )
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(random.uniform(1 - LIGHT, 1 + LIGHT))
    return image


def scrap(image: Image.Image, random: np.random.Generator) -> Pixels:
    """Cut a piece of a photo, seen by the service or as plain grey pixels."""
    size = np.array(image.size)
    window = (size * random.uniform(*SCRAP_SHARES)).clip(4).astype(int)
    corner = random.integers(0, np.maximum(size - window, 1))
    piece = image.crop((*corner.tolist(), *(corner + window).tolist()))
    if random.random() >= GREY_SHARE:
        return preprocess(piece)
    return np.asarray(piece.resize((SIDE, SIDE), Image.Resampling.BOX).convert("L"))


def read_unknown(path: Path) -> Pixels:
    """Read a folder of pictures, or `images` of an NPZ file: uint8 [N, 28, 28].

    Raises `ValueError` if there is nothing to read.
    """
    if path.is_dir():
        return read_pictures(path, find_files(path))[1]
    with path.open("rb") as file:
        try:  # NumPy raises any kind of error on bytes that lie
            with np.load(file) as arrays:
                pixels: Pixels = np.asarray(arrays["images"])
        except Exception as error:
            raise ValueError(f"{path} is no NPZ file with images") from error
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (SIDE, SIDE) or not len(pixels):
        raise ValueError(f"{path}: images must be uint8 [N, {SIDE}, {SIDE}]")
    return pixels


def read_all_unknown(paths: Sequence[Path]) -> dict[str, Pixels]:
    """Read several sets, by the names of their files. Raises `ValueError`."""
    sets: dict[str, Pixels] = {}
    for path in paths:
        name = path.resolve().name.removesuffix(".npz")
        if name in sets:
            raise ValueError(f"two sets are named {name}")
        sets[name] = read_unknown(path)
    return sets


def read_pictures(folder: Path, files: Sequence[Path]) -> tuple[list[int], Pixels]:
    """Read pictures as the service does: uint8 [N, 28, 28], and which files are any.

    Raises `ValueError`, which names the folder that they are of, if none is.
    """
    read, pixels = [], []
    for index, file in enumerate(tqdm(files, unit="picture", leave=False)):
        try:
            pixels.append(to_pixels(file.read_bytes()))
        except ImageError as error:
            tqdm.write(f"{file}: {error}")
            continue
        read.append(index)
    if not read:
        raise ValueError(f"no pictures in {folder}")
    return read, np.stack(pixels)
