"""Pictures from along a film: the right ones, evenly spread, and few whatever its length."""

import numpy as np
import pytest
from c3d_client.core.errors import UsageError, VideoDecodeError
from c3d_client.video.decode import Frame
from c3d_client.views.thumbnails import FilmStrip, film_strip
from support.films import index_frame, write_film


class Counted:
    """A picture that counts how often its pixels are made."""

    made = 0

    def pixels(self):
        Counted.made += 1
        return np.zeros((90, 160, 3), np.uint8)


def frames(times_s, pixels=None):
    pixels = np.zeros((4, 6, 3), np.uint8) if pixels is None else pixels
    for index, time_s in enumerate(times_s):
        yield Frame.from_pixels(index, time_s, 0.04, pixels)


def watched(times_s, **options):
    strip = FilmStrip(**options)
    assert [frame.time_s for frame in strip.watch(frames(times_s))] == list(times_s)
    return strip


def test_the_pictures_are_the_films_own_evenly_spread_to_its_end(tmp_path):
    strip = film_strip(write_film(tmp_path / "film.mp4", 300), count=20)
    assert 10 <= len(strip.stills) <= 20
    assert strip.end_s == pytest.approx(12)
    for still in strip.stills:
        assert still.time_s == pytest.approx(still.index / 25)
        shown = still.pixels.astype(int) - index_frame(still.index, width=240, height=180)
        assert np.abs(shown).mean() < 6
    gaps = np.diff([still.index for still in strip.stills])
    assert gaps.max() - gaps.min() <= 1
    assert strip.stills[0].index == 0
    assert 300 - strip.stills[-1].index <= gaps.max() + 1


def test_a_film_of_few_frames_keeps_them_all():
    assert len(watched(np.arange(20) / 25, count=20).stills) == 20


def test_pictures_are_spread_over_time_not_over_frames():
    # Slides: a burst of 200 frames in two seconds, then one frame a second.
    times_s = [*np.arange(200) / 100, *np.arange(2, 100)]
    times = [still.time_s for still in watched(times_s, count=20).stills]
    assert np.diff(times).min() > 4
    assert np.diff(times).max() < 12


def test_an_hour_makes_the_pixels_of_a_few_hundred_frames_and_keeps_sixty_small_pictures():
    Counted.made = 0
    strip = FilmStrip()
    for _ in strip.watch(Frame(i, i / 25, 0.04, Counted()) for i in range(90_000)):
        assert len(strip.stills) <= 60
    assert Counted.made < 600
    assert strip.end_s == pytest.approx(3600)
    assert np.diff([still.time_s for still in strip.stills]).max() < 121


@pytest.mark.parametrize(
    ("shape", "shrunk"),
    [
        ((1080, 1920), (180, 320)),
        ((1920, 1080), (180, 101)),
        ((100, 2000), (16, 320)),
        ((120, 160), (120, 160)),
        ((2, 4000), (1, 320)),
    ],
)
def test_a_picture_fits_a_small_player_and_keeps_its_shape(shape, shrunk):
    strip = FilmStrip()
    list(strip.watch(frames([0.0], np.zeros((*shape, 3), np.uint8))))
    assert strip.stills[0].pixels.shape == (*shrunk, 3)


def test_a_row_holds_for_each_cell_the_picture_nearest_its_middle():
    strip = watched(np.arange(50) / 5)  # 10 seconds
    row = strip.row(across=20, tall=2, end_s=10)  # cells of 3: room for 6.7, and 8 are the least
    assert [still.time_s for still in row] == pytest.approx(
        [0.6, 1.8, 3.2, 4.4, 5.6, 6.8, 8.2, 9.4], abs=0.101
    )
    assert len(strip.row(across=60, tall=2, end_s=10)) == 20
    assert len(strip.row(across=600, tall=2, end_s=10)) == 24
    assert len(watched([0.0, 0.04]).row(across=60, tall=2, end_s=1)) == 2
    assert FilmStrip().row(across=60, tall=2, end_s=1) == []


def test_a_strip_of_one_picture_is_refused():
    with pytest.raises(UsageError, match="a film strip of 1 pictures; give 2 or more"):
        FilmStrip(count=1)


def test_what_is_no_film_is_a_decode_error(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"no film")
    with pytest.raises(VideoDecodeError, match="film.mp4"):
        film_strip(tmp_path / "film.mp4")
