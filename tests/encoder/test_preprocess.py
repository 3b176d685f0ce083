import numpy as np
import pytest
import torch
from PIL import Image

from cxrsynth.data import CXRDataModule
from cxrsynth.encoder import normalise, preprocess_chexfound
from cxrsynth.encoder.preprocess import stretch
from cxrsynth.errors import UserError


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (33, 33), (45, 32)])
def test_resize_crop_and_stretch(shape):
    image = np.random.default_rng(0).integers(20, 200, shape, dtype=np.uint8)
    size = 32
    short = min(shape)
    h, w = int(size * shape[0] / short), int(size * shape[1] / short)
    resized = np.array(Image.fromarray(image).resize((w, h), Image.Resampling.BICUBIC), dtype=np.float32)
    top, left = round((h - size) / 2), round((w - size) / 2)
    crop = resized[top : top + size, left : left + size]
    unit = (crop - crop.min()) / (crop.max() - crop.min())
    got = preprocess_chexfound(image, size)
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        np.testing.assert_allclose(got[channel].numpy(), (unit - mean) / std, rtol=1e-5, atol=1e-5)


def test_datamodule_and_contrast_do_the_same(tmp_path):
    pixels = np.random.default_rng(0).integers(20, 200, (45, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("image_id,path,labels\na,a.png,Mass\n")
    expected = preprocess_chexfound(pixels, 32)
    for cache_gib in (0.0, 1.0):
        data = CXRDataModule(str(tmp_path / "metadata.csv"), size=32, square="crop", cache_gib=cache_gib)
        data.setup("predict")
        (batch,) = data.predict_dataloader()
        torch.testing.assert_close(normalise(batch["image"], "stretch")[0], expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(UserError, match="use pad"):
        CXRDataModule("x.csv", square="crop", lungs=True)


def test_constant_images_stay_finite():
    assert torch.isfinite(preprocess_chexfound(np.full((40, 50), 7, dtype=np.uint8), 32)).all()
    assert torch.equal(stretch(torch.full((1, 2, 2), 3.0)), torch.zeros(1, 2, 2))


def test_other_depths_are_refused():
    with pytest.raises(UserError, match="uint16"):
        preprocess_chexfound(np.zeros((4, 4), dtype=np.uint16))
