import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.inpainting.times import draw_times


def test_uniform_times_fall_one_into_each_part():
    t = draw_times(1000)
    assert torch.equal((t.sort().values * 1000).floor(), torch.arange(1000.0))
    assert not torch.equal(t, t.sort().values)


def test_the_logit_of_logit_normal_times_is_normal():
    logit = torch.logit(draw_times(20_000, "logit_normal", mean=0.5, spread=1.5).double())
    assert logit.mean().item() == pytest.approx(0.5, abs=0.02)
    assert logit.std().item() == pytest.approx(1.5, abs=0.02)
    quarter = torch.quantile(logit, 0.25).item()  # of a normal distribution: mean - 0.6745 spread
    assert quarter == pytest.approx(0.5 - 0.6745 * 1.5, abs=0.03)


def test_small_batches_stay_inside():
    for seed in range(50):
        t = draw_times(2, "logit_normal", spread=3.0, generator=torch.Generator().manual_seed(seed))
        assert ((t > 0) & (t < 1)).all()


def test_the_same_generator_draws_the_same():
    first, second = (draw_times(8, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("options", "word"), [({"times": "cosine"}, "cosine"), ({"spread": 0.0}, "time_spread")])
def test_bad_settings_are_refused(options, word):
    with pytest.raises(UserError, match=word):
        draw_times(4, **options)
