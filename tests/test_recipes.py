"""Each recipe describes its data set."""

from pathlib import Path

import pytest
from conftest import Samples, torchvision_root
from PIL import Image

from training.data import get_data
from training.recipes import RECIPES, Recipe, find_recipe


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_has_all_classes_of_its_data_set(recipe: Recipe) -> None:
    assert len(set(recipe.classes)) == len(recipe.dataset.classes)
    assert {name for names in recipe.aliases.values() for name in names} <= set(
        recipe.classes
    )
    assert find_recipe(recipe.title) == recipe


def test_other_data_sets_have_no_recipe() -> None:
    with pytest.raises(ValueError, match="'CIFAR-10': Fashion-MNIST, MNIST, KMNIST"):
        find_recipe("CIFAR-10")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_data_set_is_read_by_its_recipe(
    tmp_path: Path, samples: Samples, recipe: Recipe
) -> None:
    root = torchvision_root(tmp_path, samples, recipe.dataset.__name__)
    data = get_data(recipe, root)
    assert data.classes == recipe.classes
    assert (data.test.pixels.numpy() == samples.pixels).all()


def test_a_digit_on_paper_becomes_one_of_mnist() -> None:
    """Bright on black, 20 pixels high, in the middle."""
    paper = Image.new("RGB", (200, 300), "#f4efe6")
    paper.paste("#1b2a6b", (60, 40, 80, 240))  # a one
    pixels = RECIPES["mnist"].preprocessing.preprocess(paper)
    assert pixels.shape == (28, 28)
    assert (pixels[4:24, 13:15] > 150).all()
    assert not pixels[:4].any()
    assert not pixels[24:].any()
    assert not pixels[:, :12].any()
