"""Labels: Sports-1M's own file, and files that do not have one label per class."""

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


def check_error(path, match, *, classes=3):
    with pytest.raises(AssetError, match=match) as caught:
        read_labels(path, classes=classes)
    assert str(caught.value).startswith(f"{path}: ")


def test_sports1ms_own_file_has_487_labels_in_order(assets):
    path = assets / "labels" / "sports1M_classes.txt"
    assert hashlib.md5(path.read_bytes()).hexdigest() == "c102dd9508f3aa8e360494a8a0468ad9"
    labels = read_labels(path, classes=487)
    assert len(labels) == 487
    expected = {54: "tennis", 143: "knife throwing", 367: "basketball", 384: "wiffle ball"}
    assert {index: labels[index] for index in expected} == expected


def test_any_line_end_is_accepted_and_the_last_may_be_missing(write):
    for content in (b"a b\nc\nd", b"a b\nc\nd\n", b"a b\r\nc\r\nd\r\n", b" a b \nc\t\nd\n"):
        assert read_labels(str(write(content)), classes=3) == ["a b", "c", "d"], content


def test_byte_order_mark_is_no_part_of_the_first_label(write):
    assert read_labels(write(b"\xef\xbb\xbfa\r\nb\r\nc\r\n"), classes=3) == ["a", "b", "c"]


def test_labels_may_be_in_any_script(write):
    labels = ["curling", "piłka nożna", "相撲"]
    assert read_labels(write("\n".join(labels).encode()), classes=3) == labels


def test_wrong_count_is_an_error(write):
    for count in (2, 4):
        path = write(b"label\n" * count)
        check_error(path, f"{count} labels, and the network has 3 classes")
    check_error(write(b""), r"it is empty \(0 bytes\); download it again")


def test_empty_line_is_an_error_with_its_number(write):
    for content, line in ((b"a\n\nc\n", 2), (b"a\nb\n  \n", 3), (b"\nb\nc", 1)):
        check_error(write(content), f"line {line} is empty; one label per line expected")


def test_file_that_cannot_be_read_is_an_error(tmp_path, write):
    check_error(tmp_path / "absent.txt", r"cannot be read \(No such file")
    check_error(tmp_path, "it is a folder; give the labels file in it")
    check_error(write("piłka\na\nb".encode("utf-16")), "not UTF-8 text")


def test_classes_without_names_are_numbered_from_0():
    assert numbered_labels(3) == ["class 0", "class 1", "class 2"]
