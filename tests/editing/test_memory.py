"""The peak of the whole process, for images of a clinical size: it hardly grows with the image."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LARGE = 3000
# not getrusage: its peak begins with that of the process that started this one
PROGRAM = """
import re, sys
from cxrsynth.cli import main
main(sys.argv[1:])
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]))
"""


def peak(checkpoints: Path, image: Path, out: Path, *place: str) -> int:
    """Bytes of memory that `cxrsynth inpaint` held at most, in a process of its own."""
    command = ["inpaint", "--checkpoint", str(checkpoints / "inpainting.ckpt"), "--steps", "1", "--finding", "Effusion"]
    arguments = [*command, "--image", str(image), "--out", str(out), *place]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak from Linux's /proc")
def test_a_large_image_needs_at_most_three_times_itself_more_than_a_small_one(checkpoints, tmp_path, film, write_dicom):
    pixels = np.round(np.tile(film(600, 600), (5, 5)) * 4095).astype(np.uint16)
    assert pixels.shape == (LARGE, LARGE)
    Image.fromarray(pixels[:512, :512]).save(tmp_path / "small.png")
    small = peak(checkpoints, tmp_path / "small.png", tmp_path / "a.png", "--box", "100,100,300,260")
    Image.fromarray(pixels).save(tmp_path / "large.png", compress_level=1)
    write_dicom(tmp_path / "large.dcm", pixels)
    requests = (
        ("large.png", "box.png", ["--box", "600,600,1800,1600"]),
        ("large.dcm", "dicom.dcm", ["--box", "600,600,1800,1600"]),
        ("large.dcm", "full.dcm", ["--full"]),
    )
    for image, out, place in requests:
        more = (peak(checkpoints, tmp_path / image, tmp_path / out, *place) - small) / pixels.nbytes
        print(f"{image} {place[0]}: {more:.2f} times the decoded image")
        assert more < 3
