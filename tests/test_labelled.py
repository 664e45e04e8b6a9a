"""Labelled files are found in folders and tables as people keep them."""

import os
import unicodedata
from pathlib import Path

import pytest

from training.labelled import LabelledFiles, find_labelled


def make(folder: Path, *names: str) -> Path:
    """Create empty files, with their folders."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def named(found: LabelledFiles) -> list[tuple[str, str, str]]:
    """Return split, class and file of each."""
    return [
        (split, found.classes[label], file.name)
        for split, label, file in zip(
            found.splits, found.labels, found.files, strict=True
        )
    ]


TWO = "cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"


def test_the_first_folder_is_the_class_whatever_its_name(tmp_path: Path) -> None:
    names = ["Bär 'x' \"y\"", "日本 語", "ant"]
    files = [f"{name}/{file}" for name in names for file in ("1.jpg", "deep/er/2.jpg")]
    found = find_labelled([make(tmp_path, *files, "none/x.jpg", "unlabelled/y.jpg")])
    assert found.classes == sorted(names)
    assert found.labels == [0, 0, 1, 1, 2, 2]
    assert set(found.splits) == {""}
    assert [file.name for file in found.outliers] == ["x.jpg"]


def test_a_split_holds_train_and_a_part_to_validate_on(tmp_path: Path) -> None:
    train, other = ([f"{part}/{name}" for name in TWO] for part in ("Train", "VAL"))
    found = find_labelled([make(tmp_path, *train, *other, ".cache/x", "read.me")])
    assert found.classes == ["cat", "dog"]
    assert found.splits == ["train"] * 4 + ["validation"] * 4
    assert [item.path.name for item in found.left_out] == ["read.me"]


def test_a_folder_of_another_name_makes_all_of_them_classes(tmp_path: Path) -> None:
    make(tmp_path, *(f"{x}/{n}" for x in ("train", "test", "bus") for n in "12"))
    assert find_labelled([tmp_path]).classes == ["bus", "test", "train"]


def test_folders_are_joined_by_class_whatever_their_unicode_form(
    tmp_path: Path,
) -> None:
    forms = [unicodedata.normalize(form, "Bär") for form in ("NFC", "NFD")]
    folders = [
        make(tmp_path / form, f"{name}/1.jpg", "dog/1.jpg")
        for form, name in zip("ab", forms, strict=True)
    ]
    found = find_labelled(folders)
    assert found.classes == [forms[0], "dog"]
    assert found.labels == [0, 1, 0, 1]


def test_system_files_are_left_out_silently(tmp_path: Path) -> None:
    names = ".DS_Store", "._1.jpg", "Thumbs.db", "desktop.ini", "__MACOSX/cat/._1.jpg"
    make(tmp_path, *TWO, *names, *(f"cat/{name}" for name in names))
    found = find_labelled([tmp_path])
    assert [f"{f.parent.name}/{f.name}" for f in found.files] == list(TWO)
    assert not found.left_out


def test_what_is_no_file_is_named_and_never_opened(tmp_path: Path) -> None:
    cat = make(tmp_path, *TWO) / "cat"
    (cat / "circle").symlink_to("circle")
    (cat / "nothing\n.jpg").symlink_to("missing")
    (cat / "up").symlink_to(tmp_path)
    os.mkfifo(cat / "fifo.jpg")
    make(tmp_path, "notes.txt")
    (tmp_path / "empty").mkdir()
    found = find_labelled([tmp_path])
    assert len(found.files) == 4
    lines = {item.path.name: str(item) for item in found.left_out}
    assert set(lines) == {
        "circle",
        "nothing\n.jpg",
        "fifo.jpg",
        "notes.txt",
        "empty",
    }
    assert all(line.isprintable() for line in lines.values())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no pictures"),
        (["1.jpg", "2.jpg"], "no pictures"),
        (["cat/1.jpg", "cat/2.jpg"], "one class, cat"),
        ([*TWO, "cow/1.jpg"], "2 pictures.*: cow$"),
        ([*TWO, "Cat/1.jpg", "Cat/2.jpg"], "Cat and cat differ by capitals"),
        ([*TWO, "B\u00e4r/1", "Ba\u0308r/1"], "Unicode"),
        ([*TWO, f"{'x' * 65}/1"], "64 printable"),
        ([*TWO, "a\nb/1"], r"a\\nb"),
        ([*TWO, "kap\udcf6tt/1"], r"kap\\udcf6tt"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(
    tmp_path: Path, names: list[str], message: str
) -> None:
    make(tmp_path, *names)
    with pytest.raises(ValueError, match=message) as refusal:
        find_labelled([tmp_path])
    assert str(refusal.value).isprintable()


def test_a_missing_folder_and_the_same_twice_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "a", *TWO)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for folders in (
        [tmp_path / "c"],
        [tmp_path / "a", tmp_path / "b"],
        [tmp_path / "a", tmp_path],
        [],
    ):
        with pytest.raises(ValueError, match=r"folder|twice|lies in"):
            find_labelled(folders)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n{}1.jpg,cat\n{}2.jpg,cat\n{}3.jpg,dog\n{}4.jpg,dog\n",
        "{}1.jpg;cat\r\n{}2.jpg;cat\r\n{}3.jpg;dog\r\n{}4.jpg; dog\r\n\r\n",
        "id,class,file\n1,cat,{}1.jpg\n2,cat,{}2.jpg\n3,dog,{}3.jpg\n4,dog,{}4.jpg",
    ],
)
@pytest.mark.parametrize("folder", ["", "pictures/", "pictures\\"])
def test_a_table_names_files_and_labels(tmp_path: Path, text: str, folder: str) -> None:
    pictures = make(tmp_path / "pictures", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    table = tmp_path / "labels.csv"
    table.write_text("\ufeff" + text.replace("{}", folder), encoding="utf-8")
    found = find_labelled([pictures], table)
    assert [name[1:] for name in named(found)] == [
        ("cat", "1.jpg"),
        ("cat", "2.jpg"),
        ("dog", "3.jpg"),
        ("dog", "4.jpg"),
    ]
    assert not found.left_out


def test_rows_without_a_file_or_a_label_are_named(tmp_path: Path) -> None:
    make(tmp_path, *TWO)
    rows = [f"{name},{name[:3]}" for name in TWO] + ["gone.jpg,cat", "cat/1.jpg,"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    found = find_labelled([], tmp_path / "labels.csv")
    assert [item.path.name for item in found.left_out] == ["gone.jpg", "1.jpg"]
    assert len(found.files) == 4
