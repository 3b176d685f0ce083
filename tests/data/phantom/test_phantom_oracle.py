import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cxrsynth.data.phantom import FINDINGS, Exposure, Patient, render, simulate
from cxrsynth.data.phantom.calibrate import collect, fit
from cxrsynth.data.phantom.oracle import film_with_blob, measure
from cxrsynth.errors import UserError

HEALTHY, DISEASED = 40, 14  # films without any finding, films with each


@pytest.fixture(scope="module")
def films():
    rng = np.random.default_rng(31)
    healthy = [simulate(index, 4242, healthy=1) for index in range(HEALTHY)]
    diseased = {
        finding: [
            render(Patient.draw(int(a)), Exposure.draw(int(b)), [(finding, float(s))], 128)
            for a, b, s in zip(
                rng.integers(1 << 30, size=DISEASED),
                rng.integers(1 << 30, size=DISEASED),
                rng.uniform(0.2, 1, DISEASED),
                strict=True,
            )
        ]
        for finding in FINDINGS
    }
    return healthy, diseased


@pytest.fixture(scope="module")
def scores(films):
    healthy, diseased = films
    return [measure(film.image) for film in healthy], {
        name: [measure(x.image) for x in row] for name, row in diseased.items()
    }


@pytest.mark.parametrize("finding", FINDINGS)
def test_each_finding_is_seen_in_fresh_films(finding, scores):
    healthy, diseased = scores
    values = [s[finding] for s in healthy] + [s[finding] for s in diseased[finding]]
    assert roc_auc_score([0] * HEALTHY + [1] * DISEASED, values) > 0.9


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_blob_in_the_lesions_place_scores_lower(finding, films, scores):
    lesions = [s[finding] for s in scores[1][finding]]
    blobs = [measure(film_with_blob(film, finding))[finding] for film in films[1][finding]]
    assert np.mean(lesions) > np.mean(blobs)
    assert np.mean(np.array(lesions) > np.array(blobs)) >= 0.6


def test_view_sex_and_age_are_seen(films, scores):
    every = films[0] + [film for row in films[1].values() for film in row]
    read = scores[0] + [s for row in scores[1].values() for s in row]
    assert roc_auc_score([f.exposure.view == "AP" for f in every], [s["AP"] for s in read]) > 0.95
    assert roc_auc_score([f.patient.sex == "F" for f in every], [s["F"] for s in read]) > 0.95
    assert np.corrcoef([f.patient.age for f in every], [s["age"] for s in read])[0, 1] > 0.85


@pytest.mark.parametrize("finding", FINDINGS)
def test_scores_rise_with_severity(finding):
    rises = []
    for seed in range(8):
        patient, exposure = Patient.draw(seed + 300), Exposure.draw(seed + 700)
        mild, gross = (measure(render(patient, exposure, [(finding, s)], 128).image)[finding] for s in (0.15, 0.9))
        rises.append(gross - mild)
    assert np.median(rises) > 0


def test_sizes_and_batches(films):
    film = films[0][0]
    large = render(film.patient, film.exposure, (), 256).image
    alone = measure(large)
    batch = measure(torch.from_numpy(np.stack([large, large]))[:, None])
    assert set(batch) == {*FINDINGS, "AP", "F", "age"}
    assert all(batch[name].shape == (2,) and np.isclose(batch[name][0], alone[name], rtol=1e-4) for name in batch)
    assert (alone["AP"] > 0) == (film.exposure.view == "AP")
    with pytest.raises(UserError, match="shape"):
        measure(np.zeros((3, 64, 32), np.float32))


def test_strange_films_give_finite_scores():
    for film in (np.zeros((128, 128)), np.ones((96, 96)), np.random.default_rng(0).random((128, 128))):
        assert all(np.isfinite(value) for value in measure(film.astype(np.float32)).values())


def test_calibration_can_be_fitted_again():
    table = fit(collect(range(60), seed=77))
    assert set(table) == {"right", "left", "candidate", "film"}
    assert all(len(values) == 2 * len(table["film"]["names"]) for values in table["film"]["weights"].values())
    assert all(np.isfinite(values).all() for block in table.values() for values in block["weights"].values())
