import os

import pytest

from cxrsynth.errors import UserError
from cxrsynth.files import inside, sha256_file, write_atomic, write_bytes, write_json, write_text


def test_folders_are_made_and_content_is_whole(tmp_path):
    path = write_text(tmp_path / "a" / "b.txt", "grün")
    assert path.read_bytes() == "grün".encode()
    assert write_json(tmp_path / "x.json", {"b": 1, "a": [2]}).read_text() == '{\n  "b": 1,\n  "a": [\n    2\n  ]\n}\n'


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_bytes(tmp_path / "file", b"old")

    def fail(file):
        file.write(b"half of the n")
        raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        write_atomic(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    def full(file):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device; free space"):
        write_atomic(tmp_path / "file", full)
    assert os.listdir(tmp_path) == []


def test_written_files_can_be_read_by_others(tmp_path):
    assert write_bytes(tmp_path / "file", b"x").stat().st_mode & 0o777 == 0o644


def test_sha256_of_a_known_string(tmp_path):
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, example "abc"
    assert sha256_file(write_bytes(tmp_path / "abc", b"abc")) == digest


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../secret", "link/secret"])
def test_a_path_that_leaves_its_folder_is_refused(tmp_path, path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="leaves its folder"):
        inside(root, path)


def test_a_path_inside_is_resolved(tmp_path):
    assert inside(tmp_path, "a/../b.png") == (tmp_path / "b.png").resolve()
