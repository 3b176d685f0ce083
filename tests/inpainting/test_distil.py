import math

import lightning as L
import pytest
import torch

from cxrsynth.errors import UserError
from cxrsynth.inpainting import Condition, InpaintingTask, load_inpainter
from cxrsynth.inpainting.distil import DistilTask
from cxrsynth.inpainting.distil.trajectories import Pool, Trajectories, draw_jumps, teach, wishes
from cxrsynth.inpainting.examples import Examples
from cxrsynth.inpainting.flow_map import FlowMap, start_from
from cxrsynth.inpainting.guidance import Guided
from cxrsynth.inpainting.solver import integrate
from cxrsynth.inpainting.unet import VelocityUNet

NAN = torch.nan
TINY = {"size": 16, "channels": [8, 16], "attention": [False, False], "head_channels": 8, "norm_groups": 4}
SMALL = {"channels": (8, 16), "attention": (False, False), "head_channels": 8, "norm_groups": 4}


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wide_awake(field: torch.nn.Module) -> torch.nn.Module:
    """A field whose last layers, which start at 0, do something."""
    torch.manual_seed(0)
    for parameter in field.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return field.eval()


def examples(count: int = 3) -> Examples:
    torch.manual_seed(1)
    region = torch.zeros(count, 1, 8, 8)
    region[..., 2:6, 2:6] = 1
    condition = Condition.from_names([["b"]] * count, ["a", "b"])
    return Examples(torch.rand(count, 1, 8, 8) * 2 - 1, region, torch.zeros(count, 2, 8, 8), condition)


def taught(start: float = 0.0, led: int = 0, **options) -> tuple[VelocityUNet, Examples, Trajectories]:
    field, given = wide_awake(VelocityUNet(2, **SMALL)), examples()
    settings = {"guidance": 2.0, "steps": 4, "fine": 2, "solver": "midpoint", "warp": 2.0, "generator": chance()}
    return field, given, teach(field, given, given.condition, start=start, led=led, **settings, **options)


@pytest.mark.parametrize("start", [0.0, 0.4])
def test_a_trajectory_is_the_guided_teachers(start: float):
    field, given, path = taught(start)
    guided = Guided(field, given.region, given.coordinates, given.condition, weight=2.0)
    grid = torch.tensor([1 - (1 - start) * (1 - i / 4) ** 2 for i in range(5)])
    torch.testing.assert_close(path.times, grid.expand(3, -1))
    with torch.no_grad():
        end = integrate(guided, path.states[:, :1], solver="midpoint", steps=8, warp=2.0, start=start)
    torch.testing.assert_close(path.states[:, -1:], end)
    kept = given.region == 0
    for k in range(5):
        torch.testing.assert_close(path.states[:, k : k + 1][kept], given.image[kept])
    if start:
        torch.testing.assert_close(
            path.states[:, :1] - start * given.image,
            taught(0.0)[2].states[:, :1] * (1 - start),
        )


def test_the_student_leads_and_the_teacher_shows_the_way_from_there():
    student = FlowMap(wide_awake(VelocityUNet(2, **SMALL)))
    field, given, path = taught(led=2, student=student)
    alone = Guided(student, given.region, given.coordinates, given.condition)
    with torch.no_grad():
        x, grid = path.states[:, :1], path.times[0].tolist()
        for now, end in ((0, 1), (1, 2)):
            x = x + (grid[end] - grid[now]) * alone(x, grid[now], grid[end])
        torch.testing.assert_close(path.states[:, 2:3], x)
        guided = Guided(field, given.region, given.coordinates, given.condition, weight=2.0)
        end = integrate(guided, x, solver="midpoint", steps=4, warp=2.0, start=grid[2])
    torch.testing.assert_close(path.states[:, -1:], end)
    torch.testing.assert_close(path.times[0], taught()[2].times[0])
    jumps = [draw_jumps(path, {1: 0.4, 2: 0.3, 4: 0.3}, chance(seed)) for seed in range(20)]
    assert min(jump.t.min() for jump in jumps) >= grid[2]


def test_jumps_lead_from_state_to_state():
    path = taught()[2]
    for length in (1, 2, 4):
        seen = set()
        for seed in range(20):
            jump = draw_jumps(path, {length: 1.0}, chance(seed))
            for row in range(3):
                begin = path.times[row].tolist().index(jump.t[row])
                end = path.times[row].tolist().index(jump.until[row])
                assert end - begin == length
                assert begin % length == 0
                seen.add(begin)
                span = jump.until[row] - jump.t[row]
                assert jump.weight[row].item() == pytest.approx(4 / length * span.item())
                torch.testing.assert_close(jump.x[row, 0], path.states[row, begin])
                torch.testing.assert_close(jump.x[row, 0] + span * jump.target[row, 0], path.states[row, end])
        assert seen == set(range(0, 4, length))


def test_the_pool_keeps_the_latest():
    pool, path = Pool(4), taught()[2]
    pool.add(path)
    pool.add(taught(0.5)[2])
    assert len(pool) == len(pool.kept) == 4
    assert pool.kept.times[:, 0].tolist() == [0.0, 0.5, 0.5, 0.5]
    assert len(pool.draw(9, chance())) == 9


def test_wishes_ask_one_finding_or_none_or_what_is_shown():
    count = 400
    shown = Condition(torch.tensor([[1.0, NAN, 0]] * count), torch.ones(count, 2), torch.zeros(count, dtype=torch.long))
    asked = wishes(shown, shown.as_unknown(), 0.5, chance())
    chosen = asked.known("findings")
    assert 150 < chosen.sum() < 250
    assert not asked.known("text").any()
    assert not asked.known("view")[~chosen].any()
    assert 0.4 < asked.known("view")[chosen].float().mean() < 0.6
    kinds = [tuple(row) for row in asked.findings[chosen].int().tolist()]
    shares = [kinds.count(kind) / len(kinds) for kind in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0))]
    assert sum(shares) == pytest.approx(1)
    for share, wanted in zip(shares, (5 / 8, 1 / 8, 1 / 8, 1 / 8), strict=True):
        assert abs(share - wanted) < 0.1


def test_a_student_starts_as_its_teacher_whatever_the_step():
    field = wide_awake(VelocityUNet(2, **SMALL))
    student = FlowMap(VelocityUNet(2, **SMALL)).eval()
    start_from(student, field)
    given, t = examples(2), torch.tensor([0.2, 0.7])
    request = (given.image, t, given.region, given.coordinates, given.condition)
    for until in (t, torch.ones(2)):
        assert torch.equal(student(*request, until), field(*request))
    with pytest.raises(UserError, match="jump"):
        student(*request)
    with pytest.raises(UserError, match="distilled"):
        integrate(Guided(field, *request[2:4], given.condition), given.image, solver="jump", steps=4)


def test_a_student_may_start_with_a_part_of_the_guidance():
    field, given, t = wide_awake(VelocityUNet(2, **SMALL)), examples(2), torch.tensor([0.2, 0.7])
    student = FlowMap(VelocityUNet(2, **SMALL)).eval()
    start_from(student, field, 2.0)
    request = (given.image, t, given.region, given.coordinates)
    unknown, asked = Condition.unknown(2, 2), given.condition
    assert torch.equal(student(*request, unknown, t), field(*request, unknown))
    away = [field.embed(c).tokens for c in (unknown, asked)]
    torch.testing.assert_close(student.embed(asked).tokens, away[0] + 2 * (away[1] - away[0]))


def test_a_perfect_student_ends_where_its_teacher_does():
    """dx/dt = x cos(t) has the mean velocity x (exp(sin s - sin t) - 1) / (s - t)."""

    def mean(x, t, until):
        return x * (math.exp(math.sin(until) - math.sin(t)) - 1) / (until - t)

    x0 = torch.tensor([1.0, -2.0], dtype=torch.float64)
    for steps in (1, 2, 4):
        end = integrate(mean, x0, solver="jump", steps=steps, warp=2.0)
        torch.testing.assert_close(end, x0 * math.exp(math.sin(1.0)))


class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        finding = torch.tensor([0, 1, -1, -1])
        maps = torch.zeros(4, 1, 32, 32)
        maps[:2, :, 8:20, 8:20] = 1
        target = torch.nn.functional.one_hot(finding.clamp_min(0), 2).float() * (finding >= 0)[:, None]
        image = 0.3 + 0.4 * maps * (1 - 2 * finding.clamp_min(0)).view(4, 1, 1, 1)
        return {"image": image.clamp(0, 1), "map": maps, "finding": finding, "target": target}


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(
        default_root_dir=folder, accelerator="cpu", **{**quiet, "max_epochs": 1, "limit_val_batches": 1, **options}
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    task = InpaintingTask(["a", "b"], **TINY)
    run = trainer(folder, limit_val_batches=0, enable_checkpointing=False)
    run.fit(task, torch.utils.data.DataLoader(Squares(), None))
    wide_awake(task.average.module)
    path = folder / "inpainting.ckpt"
    run.save_checkpoint(path)
    return path


def test_the_checkpoint_is_an_inpainters_and_a_longer_training_comes_nearer(teacher, tmp_path):
    loader, distances = torch.utils.data.DataLoader(Squares(), None), []
    for epochs in (0, 4):
        torch.manual_seed(0)
        task = DistilTask(str(teacher), lr=4e-3, warmup=5, ema_decay=0.9)
        run = trainer(tmp_path, max_epochs=epochs, enable_checkpointing=False, limit_val_batches=0)
        if epochs:
            run.fit(task, loader)
        result = trainer(tmp_path).validate(task, loader, verbose=False)[0]
        distances.append([result[f"val/distance/{steps}"] for steps in (1, 2, 4)])
    assert all(late < 0.9 * early for early, late in zip(*distances, strict=True)), distances
    run.save_checkpoint(tmp_path / "student.ckpt")
    student = load_inpainter(tmp_path / "student.ckpt")
    assert type(student) is InpaintingTask
    assert [student.hparams[name] for name in ("solver", "steps", "guidance")] == ["jump", 4, 1.0]
    assert not any("teacher" in name for name in student.state_dict())
    batch = Squares()[0]
    request = (batch["image"], (batch["map"] > 0).float(), Condition.from_names([["a"]] * 4, ["a", "b"]))
    painted = [each.inpaint(*request, seeds=range(4)) for each in (task.eval(), student)]
    assert torch.equal(*painted)
    assert torch.equal(painted[0][request[1] == 0], batch["image"][request[1] == 0])
    with pytest.raises(UserError, match="student itself"):
        DistilTask(str(tmp_path / "student.ckpt"))


def test_a_training_that_was_cut_off_goes_on(teacher, tmp_path):
    """Not bit for bit: the pool is filled again, before anything is learned from a handful of trajectories."""
    loader = torch.utils.data.DataLoader(Squares(), None)
    tasks = []
    for epochs in (1, 2):
        torch.manual_seed(0)
        tasks.append(DistilTask(str(teacher), lr=4e-3, warmup=5, ema_decay=0.9, every=6))
        run = trainer(tmp_path, max_epochs=epochs, enable_checkpointing=False, limit_val_batches=0)
        run.fit(tasks[-1], loader, ckpt_path=tmp_path / "cut.ckpt" if epochs == 2 else None, weights_only=True)
        assert len(tasks[-1].kept) == 16  # a batch of jumps, from four batches of data
        assert run.global_step == int(tasks[-1].average.updates) == 6 * epochs
        if epochs == 1:
            run.save_checkpoint(tmp_path / "cut.ckpt")
    first, second = (trainer(tmp_path).validate(task, loader, verbose=False)[0] for task in tasks)
    assert second["val/distance/4"] < first["val/distance/4"]


@pytest.mark.parametrize(("options", "words"), [({"steps": 3}, "power of 2"), ({"teacher_solver": "dopri5"}, "dopri5")])
def test_bad_settings_are_refused(teacher, options, words):
    with pytest.raises(UserError, match=words):
        DistilTask(str(teacher), **options)
