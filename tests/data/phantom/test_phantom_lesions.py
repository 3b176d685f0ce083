import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrsynth.data.phantom import FINDINGS, Exposure, Patient, plant, render
from cxrsynth.data.phantom.estimate import estimate_anatomy
from cxrsynth.data.phantom.oracle import measure
from cxrsynth.errors import UserError

SEEDS = range(6)


def twins(finding, severity, seed):
    patient, exposure = Patient.draw(seed), Exposure.draw(seed + 50)
    return render(patient, exposure, (), 128), render(patient, exposure, [(finding, severity)], 128)


@pytest.mark.parametrize("finding", FINDINGS)
def test_the_lesion_is_the_only_difference_to_the_healthy_twin(finding):
    for seed in SEEDS:
        healthy, diseased = twins(finding, 0.6, seed)
        change = np.abs(diseased.image - healthy.image)
        mask = diseased.lesions[0].mask
        near = np.zeros_like(mask)  # the detector's blur carries a lesion a few pixels beyond its mask
        rows, columns = np.nonzero(mask)
        for shift_row in range(-4, 5):
            for shift_column in range(-4, 5):
                near[np.clip(rows + shift_row, 0, 127), np.clip(columns + shift_column, 0, 127)] = True
        assert change[~near].max() < 1e-3
        assert change[mask].mean() > 0.02


@pytest.mark.parametrize("finding", FINDINGS)
def test_lesions_lie_where_they_belong(finding):
    for seed in SEEDS:
        healthy, diseased = twins(finding, 0.7, seed)
        lesion = diseased.lesions[0]
        lungs = sum(lung.field for lung in healthy.anatomy.lungs)
        assert lungs[lesion.mask].mean() > 0.6
        rows = np.nonzero(lesion.mask)[0]
        top = min(lung.box[0] for lung in healthy.anatomy.lungs)
        bottom = max(lung.box[1] for lung in healthy.anatomy.lungs)
        height = (rows.mean() - top) / (bottom - top)
        if finding in ("Effusion", "Atelectasis", "Cardiomegaly"):
            assert height > 0.5
        if finding == "Pneumothorax":
            assert height < 0.65


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_worse_finding_is_larger_or_denser(finding):
    for seed in SEEDS:
        effect = []
        for severity in (0.2, 0.9):
            healthy, diseased = twins(finding, severity, seed)
            effect.append(np.abs(diseased.image - healthy.image).sum())
        assert effect[1] > effect[0]


def test_opacities_are_brighter_and_free_air_is_darker():
    for finding in FINDINGS:
        healthy, diseased = twins(finding, 0.8, 3)
        mask = diseased.lesions[0].mask
        change = (diseased.image - healthy.image)[mask].mean()
        assert change < 0 if finding == "Pneumothorax" else change > 0.03


def test_plant_refuses_what_it_does_not_know():
    film = render(Patient.draw(0), Exposure.draw(0), (), 64)
    with pytest.raises(UserError, match="Fracture"):
        plant(film.image, "Fracture", 0.5, np.random.default_rng(0), film.anatomy)
    with pytest.raises(UserError, match="severity"):
        plant(film.image, "Nodule", 2.0, np.random.default_rng(0), film.anatomy)


def test_estimated_lungs_cover_the_true_ones():
    overlap = []
    for seed in range(12):
        film = render(Patient.draw(seed), Exposure.draw(seed), (), 128)
        true = sum(lung.field for lung in film.anatomy.lungs) > 0.5
        found = sum(lung.field for lung in estimate_anatomy(film.image).lungs) > 0.5
        overlap.append(2 * (true & found).sum() / (true.sum() + found.sum()))
    assert np.mean(overlap) > 0.88


def real_films(shared, count):
    table = pd.read_csv(shared / "cxr" / "metadata.csv")
    masks = pd.read_csv(shared / "cxr" / "masks.csv")
    rows = masks.merge(table[table.labels == "Normal"], on="image_id", suffixes=("_mask", "")).head(count)
    for row in rows.itertuples():
        images = [
            Image.open(shared / "cxr" / path).convert("L").resize((128, 128)) for path in (row.path, row.path_mask)
        ]
        film, mask = (np.asarray(image, dtype=np.float32) / 255 for image in images)
        yield film, mask > 0.5


@pytest.mark.parametrize("finding", FINDINGS)
def test_planting_into_real_films_changes_the_mask_alone_and_raises_the_oracle(finding, shared):
    rises = []
    for number, (film, lungs) in enumerate(real_films(shared, 12)):
        anatomy = estimate_anatomy(film, lungs)
        planted, mask = plant(film, finding, 0.9, np.random.default_rng(number), anatomy)
        assert np.array_equal(planted[~mask], film[~mask])
        assert mask.any()
        assert 0 <= planted.min() <= planted.max() <= 1
        rises.append(measure(planted, anatomy)[finding] - measure(film, anatomy)[finding])
    assert np.mean(np.array(rises) > 0) >= 0.6
    assert np.median(rises) > 0
