"""The data sets that `train.py` knows by name, and how their pictures become inputs.

    >>> RECIPES["mnist"].classes
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']

To add another data set that torchvision reads as it reads MNIST, add a recipe.
"""

from typing import Any, NamedTuple

from torchvision.datasets import KMNIST, MNIST, FashionMNIST

from model.preprocessing import Garment, Preprocessing


class Recipe(NamedTuple):
    """A data set to train on, and how its pictures become inputs."""

    name: str  # of the model
    title: str  # of the data set
    dataset: type[MNIST]  # its reader in torchvision
    classes: list[str]
    preprocessing: Preprocessing  # picture -> input array
    aliases: dict[str, list[str]]  # folder, singular -> classes its photos may be
    flips: bool = False  # a mirrored picture keeps its class
    samples: tuple[str, ...] = ()  # of static/pictures, for the page
    is_worn: bool = False  # the synthetic photos show some pictures on people
    epochs: int = 15  # of a run, by default

    def arguments(self) -> dict[str, Any]:
        """Return the constructor arguments of a new network."""
        size, channels = self.preprocessing.size, self.preprocessing.channels
        return {"size": size, "channels": channels, "classes": len(self.classes)}


RECIPES = {
    "fashion-mnist": Recipe(
        name="fashion",
        title="Fashion-MNIST",
        dataset=FashionMNIST,
        classes=FashionMNIST.classes,
        preprocessing=Garment(size=28),
        aliases={
            "t-shirt": ["T-shirt/top"],
            "top": ["T-shirt/top"],
            "pant": ["Trouser"],
            "jean": ["Trouser"],
            "longsleeve": ["Pullover"],
            "sweater": ["Pullover"],
            "hoodie": ["Pullover"],
            "outwear": ["Coat"],
            "outerwear": ["Coat"],
            "jacket": ["Coat"],
            "shoe": ["Sandal", "Sneaker", "Ankle boot"],
            "boot": ["Ankle boot"],
        },
        samples=("photo-t-shirt.jpg", "cat.gif"),
        flips=True,
        is_worn=True,
        epochs=45,
    ),
    "mnist": Recipe(
        name="mnist",
        title="MNIST",
        dataset=MNIST,
        classes=[name[0] for name in MNIST.classes],  # "0" of "0 - zero"
        preprocessing=Garment(size=28, margin=4),  # its digits have 20x20 pixels
        aliases={name[4:]: [name[0]] for name in MNIST.classes},
    ),
    "kmnist": Recipe(
        name="kmnist",
        title="KMNIST",
        dataset=KMNIST,
        classes=KMNIST.classes,
        preprocessing=Garment(size=28),
        aliases={},
    ),
}


def find_recipe(title: str) -> Recipe:
    """Return the recipe of a data set. Raises `ValueError` if there is none."""
    for recipe in RECIPES.values():
        if recipe.title == title:
            return recipe
    known = ", ".join(recipe.title for recipe in RECIPES.values())
    raise ValueError(f"no data set is called {title!r}: {known}")
