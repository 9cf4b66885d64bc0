"""The commands about weight files: fetched, converted and told apart, or one clear line."""

import numpy as np
import pytest
from c3d_export import assets as published_assets
from c3d_export.assets import Asset
from c3d_export.fingerprint import Fingerprint
from c3d_export.weights.canonical import LAYERS
from support.http_faults import CONTENT, KNOWN


class TestFetch:
    @pytest.fixture
    def published(self, server, monkeypatch):
        """Two published files: one at an address of this machine, one in a browser alone."""
        files = (
            Asset("one.h5", "weights", "the first", KNOWN, (server.url,), page="http://one"),
            Asset("two.h5", "weights", "the second", Fingerprint(), (), page="http://two"),
        )
        monkeypatch.setattr(published_assets, "CATALOGUE", files)

    def test_fetches_and_says_so_with_the_licence(self, run, tmp_path, published):
        code, out, _ = run("fetch", "one.h5", "--models", tmp_path)
        assert code == 0
        assert "CC BY-NC 3.0" in out
        assert f"fetched  {tmp_path / 'one.h5'}: checksum right" in out
        assert (tmp_path / "one.h5").read_bytes() == CONTENT

    def test_tells_in_words_what_it_cannot_fetch(self, run, tmp_path, published):
        code, out, err = run("fetch", "two.h5", "--models", tmp_path)
        assert code == 2
        assert "http://two" in out
        assert err == "c3d-export: 1 not fetched: two.h5; see above\n"
        assert list(tmp_path.iterdir()) == []

    def test_refuses_an_unknown_name(self, run, tmp_path, published):
        code, _, err = run("fetch", "three.h5", "--models", tmp_path)
        assert code == 2
        assert "'three.h5' is no published file; known are one.h5, two.h5" in err


class TestConvertAndInspect:
    def test_random_weights_become_a_file_that_still_says_so(self, run, tmp_path):
        path = tmp_path / "weights.npz"
        code, out, err = run("convert", "random:3", path)
        assert (code, err) == (0, "")
        assert f"{path}: 79,991,015 parameters from random:3" in out
        code, out, err = run("inspect", path)
        assert (code, err) == (0, "")
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert lines[0] == "weights.npz from random:3: npz"
        assert "parameters 79,991,015" in lines
        assert "classes 487" in lines
        assert "channels BGR" in lines
        assert "note not a trained network: labels and features mean nothing" in lines
        assert [line.split()[0] for line in lines if "/kernel [" in line] == [
            f"{layer}/kernel" for layer in LAYERS
        ]

    def test_what_is_missing_is_said(self, run, tmp_path, narrow_weights):
        arrays = {k: a for k, a in narrow_weights.arrays.items() if not k.startswith("fc8/")}
        np.savez(tmp_path / "features.npz", **arrays)
        code, out, _ = run("inspect", tmp_path / "features.npz")
        assert code == 0
        assert "none: fc8 is missing, so features only" in out

    def test_refuse_what_is_no_weight_file(self, refuses, tmp_path):
        path = tmp_path / "notes.txt"
        path.write_text("no weights\n")
        assert "not a weight file of a known format" in refuses("inspect", path)
        assert "not a weight file" in refuses("convert", path, tmp_path / "out.npz")

    def test_convert_leaves_nothing_where_it_cannot_write(self, refuses, tmp_path, tiny_weights):
        source = tmp_path / "in.npz"
        np.savez(source, **tiny_weights.arrays)
        (tmp_path / "out.npz").mkdir()
        assert "cannot be written" in refuses("convert", source, tmp_path / "out.npz")
