"""Labels: Sports-1M's own file, and files that are not one label a class."""

import hashlib

import pytest
from c3d_export.errors import AssetError
from c3d_export.labels import numbered_labels, read_labels


@pytest.fixture
def write(tmp_path):
    def write(content: bytes):
        path = tmp_path / "labels.txt"
        path.write_bytes(content)
        return path

    return write


def refused(path, words, *, classes=3):
    with pytest.raises(AssetError, match=words) as caught:
        read_labels(path, classes=classes)
    assert str(caught.value).startswith(f"{path}: ")


def test_sports1ms_own_file_gives_487_labels_in_their_places(assets):
    path = assets / "labels" / "sports1M_classes.txt"
    assert hashlib.md5(path.read_bytes()).hexdigest() == "c102dd9508f3aa8e360494a8a0468ad9"
    labels = read_labels(path, classes=487)
    assert len(labels) == 487
    places = {54: "tennis", 143: "knife throwing", 367: "basketball", 384: "wiffle ball"}
    assert {place: labels[place] for place in places} == places


@pytest.mark.parametrize(
    "content", [b"a b\nc\nd", b"a b\nc\nd\n", b"a b\r\nc\r\nd\r\n", b" a b \nc\t\nd\n"]
)
def test_lines_end_as_on_any_system_and_the_last_need_not(write, content):
    assert read_labels(str(write(content)), classes=3) == ["a b", "c", "d"]


def test_labels_may_be_in_any_script(write):
    labels = ["curling", "piłka nożna", "相撲"]
    assert read_labels(write("\n".join(labels).encode()), classes=3) == labels


@pytest.mark.parametrize("count", [2, 4])
def test_a_wrong_count_is_refused(write, count):
    path = write(b"label\n" * count)
    refused(path, f"{count} labels, and the network has 3 classes")


def test_an_empty_file_is_refused(write):
    refused(write(b""), "0 labels, and the network has 3 classes")


@pytest.mark.parametrize(
    ("content", "line"), [(b"a\n\nc\n", 2), (b"a\nb\n  \n", 3), (b"\nb\nc", 1)]
)
def test_an_empty_line_is_refused_by_its_number(write, content, line):
    refused(write(content), f"line {line} is empty; one label a line expected")


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "absent.txt", r"cannot be read \(No such file")


def test_a_folder_is_refused(tmp_path):
    refused(tmp_path, r"cannot be read \(Is a directory")


def test_a_file_that_is_not_utf8_is_refused(write):
    refused(write("piłka\na\nb".encode("utf-16")), "not UTF-8 text")


def test_classes_without_names_are_numbered_from_0():
    assert numbered_labels(3) == ["class 0", "class 1", "class 2"]
