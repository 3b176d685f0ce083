"""Report sentences for a film: what is there, what is not, in varied words."""

import numpy as np

from cxrsynth.data.phantom.render import Phantom

PRESENT = {
    "Effusion": [
        "{size} pleural effusion at the {place}.",
        "Blunting of the costophrenic angle at the {place}, {size} effusion.",
    ],
    "Consolidation": [
        "{size} consolidation in the {place} with air bronchograms.",
        "Air-space opacity in the {place}, {size}.",
    ],
    "Pneumothorax": [
        "{size} pneumothorax at the {place}.",
        "Visible pleural line at the {place}; {size} pneumothorax.",
    ],
    "Nodule": ["{size} rounded nodule in the {place}.", "Solitary opacity in the {place}, a {size} nodule."],
    "Cardiomegaly": ["{size} enlargement of the cardiac silhouette.", "The heart is enlarged, {size} cardiomegaly."],
    "Atelectasis": [
        "{size} atelectasis in the {place} with volume loss.",
        "Plate-like opacities in the {place}, {size} atelectasis.",
    ],
}
ABSENT = {
    "Effusion": ["No pleural effusion.", "Costophrenic angles are sharp."],
    "Consolidation": ["No focal consolidation.", "The lungs are clear of consolidation."],
    "Pneumothorax": ["No pneumothorax.", "There is no pneumothorax."],
    "Nodule": ["No nodule or mass.", "No suspicious nodule is seen."],
    "Cardiomegaly": ["Heart size is normal.", "No cardiomegaly."],
    "Atelectasis": ["No atelectasis.", "Lung volumes are normal, without atelectasis."],
}
NORMAL = ["No acute cardiopulmonary process.", "Normal chest radiograph.", "No acute disease."]


def report(phantom: Phantom, rng: np.random.Generator) -> str:
    """Sentences in random order: every finding, some absences, sometimes the view."""
    sentences = []
    for lesion in phantom.lesions:
        size = ("small", "moderate", "large")[min(2, int(3 * lesion.severity))]
        sentence = str(rng.choice(PRESENT[lesion.finding])).format(size=size, place=lesion.place)
        sentences.append(sentence[0].upper() + sentence[1:])
    shown = {lesion.finding for lesion in phantom.lesions}
    absent = [
        str(rng.choice(words)) for finding, words in ABSENT.items() if finding not in shown and rng.random() < 0.5
    ]
    sentences += absent or ([] if shown else [str(rng.choice(NORMAL))])
    if not shown and rng.random() < 0.5:
        sentences.append(str(rng.choice(NORMAL)))
    order = rng.permutation(len(sentences))
    view = (
        f"{'Portable AP' if phantom.exposure.view == 'AP' else 'PA'} chest radiograph. " if rng.random() < 0.4 else ""
    )
    return view + " ".join(sentences[k] for k in order)
