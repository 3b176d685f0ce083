import torch

from cxrsynth.encoder.crops import CropPlan, image_generator, multi_crop, patch_masks

PLAN = CropPlan(global_size=32, local_size=16, local_crops=3)


def crops_of(ids, step=0):
    images = torch.stack([torch.rand(1, 40, 48, generator=torch.Generator().manual_seed(int(i))) for i in ids])
    return multi_crop(images, [image_generator(1, step, i) for i in ids], PLAN)


def test_shapes_and_range():
    views, local = crops_of(["1", "2"])
    assert views.shape == (2, 2, 1, 32, 32)
    assert [crop.shape for crop in local] == [(2, 1, 16, 16)] * 3
    assert all(crop.min() >= 0 and crop.max() <= 1 for crop in [views, *local])


def test_crops_depend_on_image_seed_and_step_alone():
    together, local = crops_of(["1", "2", "3"])
    alone, local_alone = crops_of(["2"])
    torch.testing.assert_close(together[:, 1:2], alone)
    torch.testing.assert_close(local[2][1:2], local_alone[2])
    assert not torch.equal(crops_of(["2"], step=1)[0], alone)


def test_global_crops_are_larger_than_local_ones():
    ramp = torch.arange(64.0).repeat(64, 1)[None, None] / 64
    plan = CropPlan(32, 16, 4, jitter=0.0)
    widths: dict[str, list[float]] = {"large": [], "small": []}
    for i in range(20):
        views, local = multi_crop(ramp, [image_generator(0, 0, str(i))], plan)
        widths["large"] += [float(v.max() - v.min()) for v in views[:, 0]]
        widths["small"] += [float(v.max() - v.min()) for v in local]
    # width of a crop = sqrt(area * aspect): at least sqrt(.32 * 3/4), at most sqrt(.32 * 4/3)
    assert min(widths["large"]) > (0.32 * 0.75) ** 0.5 - 0.1
    assert max(widths["small"]) < (0.32 * 4 / 3) ** 0.5 + 0.05


def test_no_flip_unless_asked():
    ramp = torch.arange(64.0).repeat(64, 1)[None, None] / 64

    def rising(flip):
        views, _ = multi_crop(ramp, [image_generator(0, 0, "a")], CropPlan(32, 16, 0, flip=flip))
        return (views.mean(-2).diff(dim=-1).mean(-1) > 0).flatten().tolist()

    assert rising(0.0) == [True, True]
    assert rising(1.0) == [False, False]


def test_masks_keep_probability_and_ratio():
    masks = patch_masks([image_generator(0, 0, str(i)) for i in range(400)], (8, 8), 0.5, (0.1, 0.5))
    shares = masks.float().mean(1)
    masked = shares[shares > 0]
    assert 0.42 < len(masked) / 400 < 0.58
    assert 0.09 <= masked.min() < 0.15
    assert 0.45 < masked.max() <= 0.51
    assert abs(masked.mean() - 0.3) < 0.03
    # blocks, not dust: a masked patch's right neighbour is masked far more often than chance
    grid = masks.view(-1, 8, 8)
    assert (grid[:, :, 1:] & grid[:, :, :-1]).sum() / grid[:, :, :-1].sum() > 0.6
