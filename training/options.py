"""The command line of `train.py`, checked before anything starts.

>>> parse_options(description).output
PosixPath('model.bin')
"""

import argparse
from pathlib import Path

from model import artifact
from training.backbone import LITE0
from training.data import add_data_options
from training.recipes import RECIPES
from training.transfer import epochs_of

QUICK_EPOCHS = 5
FINE_TUNING_EPOCHS = 3  # of each run of the soup
# fine-tuning averages runs from one start: a model soup (arXiv 2203.05482)
SOUP_RUNS = 3
SIZES = 32, 512  # pixels, of the input of a network for one's own pictures


def parse_options(description: str) -> argparse.Namespace:
    """Read and check the command line; exit with one line if it cannot work."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    add_image_options(parser)
    options = parser.parse_args()
    options.own_pictures = bool(options.images or options.labels)
    if options.check and not options.own_pictures:
        parser.error("--check needs --images or --labels")
    if options.own_pictures and (options.photos or options.start or options.quick):
        parser.error("--photos, --start and --quick are for a built-in data set")
    if options.check:
        return options
    options.checkpoint = Path(f"{options.output}.checkpoint")
    if options.quick and options.start:
        parser.error("--quick is for a new network; --start is short by itself")
    if options.epochs is None:
        options.epochs = usual_epochs(options)
    if options.epochs < 1:
        parser.error("--epochs is at least 1")
    if options.size and not SIZES[0] <= options.size <= SIZES[1]:
        parser.error("--size is {} to {}".format(*SIZES))
    try:
        artifact.check_output(options.output)
    except artifact.ArtifactError as error:
        parser.error(str(error))
    if options.resume and not options.checkpoint.is_file():
        parser.error(f"nothing to resume: no {options.checkpoint}")
    return options


def usual_epochs(options: argparse.Namespace) -> int:
    """Return the number of epochs where none is given."""
    if options.own_pictures:
        return epochs_of(options.backbone)
    if options.start:
        return FINE_TUNING_EPOCHS
    return QUICK_EPOCHS if options.quick else RECIPES[options.dataset].epochs


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run on a built-in data set, and of any run."""
    add = parser.add_argument
    add(
        "--dataset",
        choices=RECIPES,
        default="fashion-mnist",
        help="what to train on (fashion-mnist)",
    )
    add_data_options(parser)
    add(
        "--outliers",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR|NPZ",
        help="pictures of none of the classes, beside synthetic ones (none)",
    )
    add(
        "--output",
        type=Path,
        default=Path("model.bin"),
        metavar="FILE",
        help="the model to write or replace (model.bin)",
    )
    add("--seed", type=int, default=1, help="of all random numbers (1)")
    full = ", ".join(f"{recipe.epochs} for {name}" for name, recipe in RECIPES.items())
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=int,
        help=f"number ({full}); with --start, of each of {SOUP_RUNS} runs"
        f" ({FINE_TUNING_EPOCHS})",
    )
    quick = f"a first try: --epochs {QUICK_EPOCHS}; not with --start"
    length.add_argument("--quick", action="store_true", help=quick)
    add("--start", type=Path, metavar="MODEL", help="a model.bin to fine-tune (none)")
    add("--resume", action="store_true", help="continue after a stop")


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run on pictures of one's own classes."""
    add = parser.add_argument_group("your own pictures").add_argument
    add(
        "--images",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="pictures of your own classes, one folder a class, instead of a data set",
    )
    add("--labels", type=Path, metavar="CSV", help="paths and labels, for --images")
    add("--name", help="of the model of --images (its folder's)")
    add("--backbone", default=LITE0, help=f"pretrained network for --images ({LITE0})")
    add("--size", type=int, help="of its input (192 pixels; 224 for the head alone)")
    add("--head-only", action="store_true", help="do not fine-tune the backbone")
    add("--samples", type=int, default=12, help="pictures to put into model.bin (12)")
    add(
        "--check",
        type=Path,
        nargs="?",
        const=Path("check.png"),
        metavar="PNG",
        help="only print what the pictures are like; draw the unusual ones (check.png)",
    )
