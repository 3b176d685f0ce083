import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.inpainting.condition import Condition
from cxrsynth.inpainting.guidance import Guided, at_most, branches

NAMES = ["Effusion", "Nodule/Mass", "Pneumothorax"]


class Sum:
    """A field whose velocity is known: finding 0's value (10 where unknown), plus 100 for a text and 1000 for AP."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed(self, condition):
        return condition

    def __call__(self, x, t, region, coordinates, condition):
        self.batches.append(len(x))
        value = condition.findings[:, 0].nan_to_num(10.0)
        value = value + 100 * condition.known("text") + 1000 * condition.known("view")
        return value[:, None, None, None].expand_as(x)


def ask(weight, condition: Condition | None = None, at: float = 0.0, **options) -> tuple[list[float], Sum]:
    x, field = torch.zeros(2, 1, 4, 4), Sum()
    condition = condition or Condition.from_names([["Effusion"], []], NAMES)
    guided = Guided(field, torch.ones_like(x), x.expand(2, 2, 4, 4), condition, weight=weight, **options)
    return guided(x, at)[:, 0, 0, 0].tolist(), field


def told(**fields) -> Condition:
    return Condition(Condition.from_names([["Effusion"], []], NAMES).findings, **fields)


TEXT, VIEW = torch.ones(2, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long)


def test_one_weight_is_the_formula_in_one_forward():
    velocity, field = ask(2.5)
    assert velocity == [10 + 2.5 * (1 - 10), 10 + 2.5 * (0 - 10)]
    assert field.batches == [4]
    assert ask(0.0)[0] == [10.0, 10.0]
    assert ask(3.0, baseline="none")[0] == [3.0, 0.0]
    velocity, field = ask(2.0, told(text=TEXT, view=VIEW))
    assert velocity == [10 + 2 * (1101 - 10), 10 + 2 * (1100 - 10)]
    assert field.batches == [4]


def test_weight_one_is_the_conditional_field():
    velocity, field = ask(1.0)
    assert velocity == [1.0, 0.0]
    assert field.batches == [2]
    assert ask({"text": 1.0}, told(text=TEXT))[1].batches == [2]


def test_each_field_has_its_own_weight():
    everything = told(text=TEXT, view=VIEW)
    weights = {"view": 2.0, "findings": 3.0, "text": 0.5}
    velocity, field = ask(weights, everything)
    assert velocity == [10 + 2 * 1000 + 3 * (1 - 10) + 0.5 * 100, 10 + 2 * 1000 + 3 * (0 - 10) + 0.5 * 100]
    assert field.batches == [8]
    # the view is given, only the finding is exaggerated: two branches, not three
    velocity, field = ask({"findings": 3.0}, told(view=VIEW))
    assert velocity == [1010 + 3 * (1 - 10), 1010 + 3 * (0 - 10)]
    assert field.batches == [4]


def test_coefficients_sum_to_one_and_end_at_the_whole_condition():
    for weights in (0.0, 1.0, 4.0, {"text": 2.0}, {"view": 0.0, "findings": 3.0}):
        for baseline in ("unknown", "none"):
            terms = branches(told(text=TEXT, view=VIEW), weights, baseline)
            assert sum(c for c, _ in terms) == pytest.approx(1.0)
            assert all(terms[-1][1].known(name).all() for name in ("view", "findings", "text"))


def test_guidance_acts_in_its_interval_only():
    for at, count in ((0.1, 2), (0.3, 4), (0.7, 4), (0.9, 2)):
        velocity, field = ask(2.0, at=at, interval=(0.3, 0.7))
        assert field.batches == [count]
        assert velocity[0] == (1.0 if count == 2 else 10 + 2 * (1 - 10))


def test_rescale_brings_the_contrast_back():
    class Contrast(Sum):
        """A ramp whose steepness is 1 where the finding is unknown, 2 where it is known."""

        def __call__(self, x, t, region, coordinates, condition):
            steep = torch.where(condition.findings[:, :1].isnan(), 1.0, 2.0)[:, :, None, None]
            return steep * torch.linspace(0, 1, 16).view(4, 4)

    x = torch.zeros(1, 1, 4, 4)
    condition = Condition.from_names([["Effusion"]], NAMES)
    spread = []
    for rescale in (0.0, 0.5, 1.0):
        guided = Guided(Contrast(), x + 1, x.expand(1, 2, 4, 4), condition, weight=3.0, rescale=rescale)
        velocity = guided(x, 0.5)
        spread.append(velocity.std(correction=0).item())
        assert velocity.mean().item() == pytest.approx((1 + 3 * (2 - 1)) * 0.5, rel=1e-4)
    unit = torch.linspace(0, 1, 16).std(correction=0).item()
    assert spread == pytest.approx([4 * unit, 3 * unit, 2 * unit], rel=1e-4)


@pytest.mark.parametrize(
    ("weight", "options", "word"),
    [
        (2.0, {"baseline": "somewhere"}, "somewhere"),
        ({"colour": 2.0}, {}, "colour"),
        (float("nan"), {}, "finite"),
        ({"text": float("inf")}, {}, "finite"),
        (2.0, {"interval": (0.6, 0.2)}, "guidance_interval"),
        (2.0, {"rescale": 1.5}, "rescale"),
    ],
)
def test_bad_settings_are_refused(weight, options, word):
    with pytest.raises(UserError, match=word):
        ask(weight, **options)


def test_weights_are_kept_below_a_limit():
    assert at_most(2.5, 1.5) == 1.5
    assert at_most({"findings": 2.5, "view": 1.0}, 1.5) == {"findings": 1.5, "view": 1.0}
