"""Sound videos are decoded whole and without an error, whatever wrote them: no false alarm.

`pytest -s` prints what was tried.
"""

import pytest
from c3d_client.core.errors import VideoDecodeError
from c3d_client.video.decode import decode_frames
from support.sound_videos import FAMILIES, write_sound_videos

# If one of these is missing, the build of FFmpeg lacks an encoder or a muxer, and fewer kinds of
# files are tried than it appears.
ALWAYS_TRIED = {
    "mp4": {"libx264", "libx265", "libsvtav1", "libvpx-vp9", "mpeg4", "mpeg2video", "mjpeg"},
    "mov": {"libx264", "prores_ks", "qtrle", "dnxhd", "cinepak", "svq1", "png", "rawvideo"},
    "matroska": {"libx264", "libx265", "libvpx", "libvpx-vp9", "ffv1", "mpeg4", "msmpeg4"},
    "webm": {"libvpx", "libvpx-vp9", "libsvtav1"},
    "avi": {"mpeg4", "msmpeg4", "mjpeg", "huffyuv", "ffv1", "libx264", "cinepak", "utvideo"},
    "asf": {"wmv1", "wmv2", "msmpeg4"},
    "flv": {"flv", "libx264", "flashsv"},
    "mpegts": {"libx264", "libx265", "mpeg2video", "mpeg1video", "mpeg4"},
    "mpeg": {"mpeg1video", "mpeg2video"},
    "vob": {"mpeg2video"},
    "mxf": {"mpeg2video", "dnxhd", "libx264", "prores_ks", "jpeg2000", "dvvideo"},
    "nut": {"ffv1", "libx264", "snow"},
    "ogg": {"libvpx"},
    "3gp": {"h263", "mpeg4"},
    "rm": {"rv10", "rv20"},
    "gif": {"gif"},
    "apng": {"apng"},
    "yuv4mpegpipe": {"wrapped_avframe"},
    "dv": {"dvvideo"},
    "ivf": {"libvpx", "libvpx-vp9", "libsvtav1"},
    **{name: {name} for name in ("h261", "h263", "mpeg1video", "mpeg2video", "mjpeg")},
    "h264": {"libx264"},
    "hevc": {"libx265"},
    "m4v": {"mpeg4"},
    "swf": {"flv"},
}

# Sound files that are refused: FFmpeg's encoder of RPZA marks no keyframe, and a NUT without its
# index is like one that is cut short.
KNOWN_ALARMS = {
    ("asf", "rpza", "plain"): "no keyframe",
    ("nut", "rpza", "plain"): "no keyframe",
    ("nut", "libx264", "no index"): "it ends without its index",
}


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_sound_videos_are_decoded_whole(tmp_path, family):
    tried: dict[str, list[str]] = {}
    wrong = []
    for number, video in enumerate(write_sound_videos(tmp_path, family)):
        tried.setdefault(video.container, []).append(f"{video.codec} ({video.feature})")
        try:
            # libavcodec decodes with threads by default, and with one where videos are many.
            frames = sum(1 for _ in decode_frames(video.path, threads=number % 2))
            if frames != video.frames:
                wrong.append(f"{video}: {frames} were decoded")
        except VideoDecodeError as error:
            alarm = KNOWN_ALARMS.get((video.container, video.codec, video.feature))
            if alarm is not None and alarm in str(error):
                continue
            wrong.append(f"{video}: {str(error).removeprefix(str(video.path))}")
        finally:
            video.path.unlink()
    for container, codecs in tried.items():
        print(f"{family}: {container}: {', '.join(codecs)}")
    print(f"{family}: {sum(map(len, tried.values()))} videos")
    assert not wrong, "\n".join(["", *wrong])
    if family == "every codec in every container":
        pairs = {(container, codec.split()[0]) for container in tried for codec in tried[container]}
        expected = {(name, codec) for name, codecs in ALWAYS_TRIED.items() for codec in codecs}
        assert expected <= pairs
        assert len(pairs) >= 300
