"""Valid inputs, and what must hold of what is accepted, for `fuzz.py`."""

import json
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cxrsynth.anatomy.segmenter import SHIPPED, load_segmenter
from cxrsynth.attention.task import GLoRITask
from cxrsynth.data.manifest import Manifest
from cxrsynth.data.maps import MapStore
from cxrsynth.data.masks import MaskStore
from cxrsynth.data.phantom import write_phantom
from cxrsynth.data.reading import read_stored
from cxrsynth.data.split import make_splits, read_splits, write_splits
from cxrsynth.editing.datamodule import read_requests
from cxrsynth.encoder import load_encoder
from cxrsynth.inpainting.task import InpaintingTask, load_inpainter
from cxrsynth.synthesis.fields import FieldStore
from cxrsynth.synthesis.plan import make_plan, named_images, read_plan, write_plan
from cxrsynth.synthesis.provenance import gather, is_made
from cxrsynth.synthesis.task import load_attention

FINDINGS = ["Effusion", "Nodule"]
SHARES = {
    **{"image": 0.2, "dicom": 0.2, "manifest": 0.12, "parquet": 0.04, "boxes": 0.06, "masks": 0.06, "splits": 0.04},
    **{"plan": 0.08, "requests": 0.04, "provenance": 0.08, "maps": 0.03, "registration": 0.02},
    **{"checkpoint": 0.015, "encoder": 0.01, "segmenter": 0.005},
}


def read_image_case(path: Path, original: Path) -> None:
    stored = read_stored(path)
    shown = stored.display()
    assert shown.ndim == 2, "not an image"
    assert np.isfinite(shown).all(), "display is not finite"
    assert shown.min() >= 0, "display below 0"
    assert shown.max() <= 1, "display above 1"
    region = np.zeros(shown.shape, bool)
    region[:1] = True
    assert (stored.paste(1 - shown, region).stored[1:] == stored.stored[1:]).all(), "paste changed the outside"


def check_manifest(manifest: Manifest) -> None:
    for image_id in manifest.table["image_id"]:
        assert "/" not in image_id, "an id leaves its folder"
        assert manifest.path(image_id).is_relative_to(manifest.root), "a path leaves its folder"
    targets = manifest.targets(manifest.findings)
    assert bool(((targets == 0) | (targets == 1) | targets.isnan()).all()), "targets"
    assert len(manifest.healthy) == len(manifest), "healthy"


def read_manifest_case(path: Path, original: Path) -> None:
    check_manifest(Manifest.load(path))


def beside(path: Path, original: Path, name: str) -> Manifest:
    """The original's manifest with the mutated table beside it, images and all."""
    folder = path.parent / "archive"
    folder.mkdir(exist_ok=True)
    for other in ("metadata.csv", "boxes.csv", "masks.csv"):
        (folder / other).write_bytes(path.read_bytes() if other == name else (original.parent / other).read_bytes())
    for name in ("images", "masks"):
        if (original.parent / name).is_dir() and not (folder / name).exists():
            (folder / name).symlink_to(original.parent / name)  # leads out: reading through it is refused
    return Manifest.load(folder / "metadata.csv")


def read_marks_case(name: str) -> Callable[[Path, Path], None]:
    def read(path: Path, original: Path) -> None:
        manifest = beside(path, original, name)
        check = Manifest(
            manifest.table.assign(root=str(original.parent)), manifest.boxes, manifest.masks, manifest.findings
        )
        check.masks["root"] = str(original.parent)
        store = MaskStore(check, 16)
        for image_id, label in list(store.paths.keys() | store.boxes.keys())[:6]:
            if image_id in set(check.table["image_id"]):
                marks = store.batch([image_id], [label], 16)
                assert bool(((marks == 0) | (marks == 1)).all()), "masks are 0 or 1"

    return read


def read_splits_case(path: Path, original: Path) -> None:
    table = read_splits(path)
    assert set(table["split"]) <= {"train", "val", "test", ""}, "splits"
    assert table["image_id"].is_unique, "an image twice"


def read_plan_case(path: Path, original: Path) -> None:
    plan = read_plan(path)
    assert plan["id"].is_unique, "an id twice"
    assert plan["id"].str.fullmatch(r"\w[\w.-]*").all(), "an id that is no file name"
    assert (plan["seed"] >= 0).all(), "a negative seed"
    named_images(plan)


def read_requests_case(path: Path, original: Path) -> None:
    for row in read_requests(path):
        assert "/" not in row["id"], "an id leaves its folder"


def read_provenance_case(path: Path, original: Path) -> None:
    folder = path.parent / "run"
    (folder / "provenance").mkdir(parents=True, exist_ok=True)
    record = folder / "provenance" / "syn00000.json"
    record.write_bytes(path.read_bytes())
    row = {"id": "syn00000", "group": 0, "source_id": "a", "exemplar_id": "b", "finding": "Effusion", "seed": 7}
    assert not is_made(folder, row, "recipe"), "a record without its files counts as made"
    import pandas as pd

    gather(folder, pd.DataFrame([row]))


def read_registration_case(path: Path, original: Path) -> None:
    store = FieldStore(path.parent)
    target = path.parent / "ab" / "abcd.npz"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(path.read_bytes())
    found = store.get("abcd", (48, 48))
    assert found is None or bool(found[0].isfinite().all()), "a field that is not finite"


def read_maps_case(path: Path, original: Path) -> None:
    store = MapStore(path)
    maps = store.batch(["a", "b"], ["Effusion", None], 8)
    assert bool(((maps >= 0) & (maps <= 1)).all()), "maps outside 0 to 1"


def finite(module: torch.nn.Module) -> None:
    assert all(bool(value.isfinite().all()) for value in module.state_dict().values()), "weights that are not finite"


READERS: dict[str, Callable[[Path, Path], None]] = {
    "image": read_image_case,
    "dicom": read_image_case,
    "manifest": read_manifest_case,
    "parquet": read_manifest_case,
    "boxes": read_marks_case("boxes.csv"),
    "masks": read_marks_case("masks.csv"),
    "splits": read_splits_case,
    "plan": read_plan_case,
    "requests": read_requests_case,
    "provenance": read_provenance_case,
    "maps": read_maps_case,
    "registration": read_registration_case,
    "checkpoint": lambda path, original: finite(
        (load_attention if "attention" in original.name else load_inpainter)(str(path))
    ),
    "encoder": lambda path, original: finite(load_encoder(path)),
    "segmenter": lambda path, original: finite(load_segmenter.__wrapped__(path)),  # not what was kept of the last case
}


def write_originals(folder: Path) -> dict[str, list[Path]]:
    """Small valid inputs of every kind."""
    torch.set_num_threads(1)
    metadata = write_phantom(folder / "phantom", count=12, size=64, seed=3)
    manifest = Manifest.load(metadata)
    masks = folder / "phantom" / "masks.csv"
    if not masks.exists():
        first = manifest.table.iloc[0]
        masks.write_text(f"image_id,path,structure\n{first.image_id},{first.path},lungs\n")
    splits = make_splits(manifest)
    write_splits(splits, folder / "splits.csv")
    plan = make_plan(manifest, splits.assign(split="train"), list(manifest.findings), count=8, cross_view=True)
    write_plan(folder / "plan.csv", plan)
    manifest.table.drop(columns="root").to_parquet(folder / "table.parquet", index=False)
    (folder / "requests.csv").write_text(
        'id,image,finding,box,seed,full\na,x.png,Effusion,,1,\nb,y.png,,"1,2,3,4",,true\n'
    )
    (folder / "record.json").write_text(json.dumps(record()))
    noise = np.random.default_rng(0)
    np.savez_compressed(
        folder / "maps.npz",
        image_id=np.array(["a", "b"]),
        finding=np.array(["Effusion", "Nodule"]),
        map=noise.random((2, 6, 6)).astype(np.float16),
    )
    FieldStore(folder / "fields").put("abcd", torch.rand(2, 48, 48), 0.5)
    return {
        "image": pictures(folder),
        "dicom": dicoms(folder),
        "manifest": [metadata],
        "parquet": [folder / "table.parquet"],
        "boxes": [folder / "phantom" / "boxes.csv"],
        "masks": [masks],
        "splits": [folder / "splits.csv"],
        "plan": [folder / "plan.csv"],
        "requests": [folder / "requests.csv"],
        "provenance": [folder / "record.json"],
        "maps": [folder / "maps.npz"],
        "registration": [folder / "fields" / "ab" / "abcd.npz"],
        **networks(folder),
    }


def record() -> dict[str, object]:
    row = {"id": "syn00000", "group": 0, "source_id": "a", "exemplar_id": "b", "finding": "Effusion", "seed": 7}
    files = {name: f"{name}s/syn00000.png" for name in ("image", "region", "map")}
    return {
        **row,
        **files,
        **{f"{name}_sha256": "0" * 64 for name in files},
        "recipe": "recipe",
        "source_path": "a.png",
    }


def pictures(folder: Path) -> list[Path]:
    values = (np.random.default_rng(1).random((40, 32)) * 255).astype(np.uint8)
    Image.fromarray(values).save(folder / "grey.png")
    Image.fromarray(values).save(folder / "grey.jpg", quality=90)
    Image.fromarray(values.astype(np.uint16) * 16).save(folder / "deep.png")
    Image.fromarray(np.stack([values] * 3, -1)).save(folder / "colour.png")
    stored = read_stored(dicoms(folder)[0])
    stored.save_png(folder / "display.png")
    return [folder / name for name in ("grey.png", "grey.jpg", "deep.png", "colour.png", "display.png")]


def dicoms(folder: Path) -> list[Path]:
    paths = []
    for bits, photometric in ((12, "MONOCHROME1"), (8, "MONOCHROME2"), (16, "MONOCHROME2")):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(bits)])
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 24, 20, 1
        dataset.BitsAllocated = 8 if bits == 8 else 16
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
        dataset.PhotometricInterpretation = photometric
        dataset.RescaleIntercept, dataset.RescaleSlope = "-10", "1.5"
        dataset.WindowCenter, dataset.WindowWidth = "1000" if bits > 8 else "100", "1500" if bits > 8 else "180"
        values = np.random.default_rng(bits).integers(0, 2**bits, (24, 20))
        dataset.PixelData = values.astype(np.uint8 if bits == 8 else np.uint16).tobytes()
        path = folder / f"{bits}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def networks(folder: Path) -> dict[str, list[Path]]:
    vit = {"image_size": 32, "patch_size": 16, "dim": 16, "depth": 4, "num_heads": 2}
    tasks = {
        "attention.ckpt": GLoRITask(FINDINGS, image_size=32, architecture=vit, dim=16, num_heads=2, ffn_hidden=16),
        "inpainting.ckpt": InpaintingTask(FINDINGS, size=32, channels=[16, 16], attention=[False, True]),
    }
    for name, task in tasks.items():
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        trainer.strategy.connect(task)
        trainer.save_checkpoint(folder / name)
    (folder / "segmenter.safetensors").write_bytes(SHIPPED.read_bytes())
    files = [folder / name for name in tasks]
    return {"checkpoint": files, "encoder": files[:1], "segmenter": [folder / "segmenter.safetensors"]}
