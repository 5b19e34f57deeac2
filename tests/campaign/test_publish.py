"""Artefacts appear whole or not at all, and are checked before use."""

import errno
import json

import pytest

from gfm_pipeline.core import publish
from gfm_pipeline.core.errors import ConfigError, GFMError, IntegrityError, StorageError


def make(folder, text="hello"):
    with publish.publishing(folder, "test", {"a": 1}) as temporary:
        (temporary / "data.txt").write_text(text)
        (temporary / "inner").mkdir()
        (temporary / "inner" / "more.bin").write_bytes(b"\0" * 10)


def test_published_and_verified(tmp_path):
    make(tmp_path / "a")
    manifest = publish.verify(tmp_path / "a", digests=True)
    assert sorted(manifest.files) == ["data.txt", "inner/more.bin"]
    assert manifest.meta == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_equal_content_equal_digest(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b")
    make(tmp_path / "c", "other")
    digests = [publish.read_manifest(tmp_path / name).digest for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_second_publication_keeps_the_first(tmp_path):
    make(tmp_path / "a", "first")
    make(tmp_path / "a", "second")
    assert (tmp_path / "a" / "data.txt").read_text() == "first"


def test_an_exception_leaves_nothing(tmp_path):
    def fails_half_way():
        with publish.publishing(tmp_path / "a", "test") as temporary:
            (temporary / "x").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fails_half_way()
    assert list(tmp_path.iterdir()) == []


def test_unfinished_folder_is_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "half").write_text("x")
    assert not publish.is_published(tmp_path / "a")
    make(tmp_path / "a")
    assert publish.is_published(tmp_path / "a")


def test_changed_files_are_named(tmp_path):
    make(tmp_path / "a")
    (tmp_path / "a" / "data.txt").write_text("HELLO")
    publish.verify(tmp_path / "a")
    with pytest.raises(IntegrityError, match=r"data\.txt was changed"):
        publish.verify(tmp_path / "a", digests=True)
    (tmp_path / "a" / "data.txt").write_text("shorter than before? no: longer")
    with pytest.raises(IntegrityError, match=r"data\.txt has 31 bytes, its manifest says 5"):
        publish.verify(tmp_path / "a")
    (tmp_path / "a" / "data.txt").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        publish.verify(tmp_path / "a")


def test_damaged_or_newer_manifest(tmp_path):
    make(tmp_path / "a")
    path = tmp_path / "a" / publish.MANIFEST
    data = json.loads(path.read_text())
    path.write_text(path.read_text()[:-20])
    with pytest.raises(IntegrityError, match="damaged"):
        publish.verify(tmp_path / "a")
    path.write_text(json.dumps(data | {"schema_version": 99}))
    with pytest.raises(IntegrityError, match="newer version"):
        publish.verify(tmp_path / "a")


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    with pytest.raises(StorageError, match="No space left") as caught, publish.publishing(tmp_path / "a", "test"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_code == 3
    assert str(tmp_path / "a") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_output_is_neither_an_input_nor_there_already(tmp_path):
    file, other = tmp_path / "a.xyz", tmp_path / "b.xyz"
    publish.check_output(file, [file])  # neither exists
    file.write_text("mine")
    other.symlink_to(file)
    with pytest.raises(ConfigError, match="exists"):
        publish.check_output(file)
    publish.check_output(file, [tmp_path / "nowhere"], overwrite=True)
    with pytest.raises(ConfigError, match=r"b\.xyz is also read"):
        publish.check_output(other, [str(tmp_path / "nowhere"), str(file)], overwrite=True)


def test_errors_survive_pickling():
    import pickle

    from gfm_pipeline.core.errors import WorkflowError

    error = WorkflowError("Wrong.", "w.yaml", 3, "Do this.")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own object
    assert (str(copy), copy.line, copy.hint, type(copy)) == (str(error), 3, "Do this.", WorkflowError)
    assert isinstance(copy, GFMError)
