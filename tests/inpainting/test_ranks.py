"""Two processes on the CPU: what a GPU adds is speed, and memory that a CPU cannot show."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cxrsynth.inpainting import load_inpainter

SCRIPT = Path(__file__).with_name("inpainting_ranks.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sharded_weights_follow_the_trace_of_whole_ones(tmp_path):
    results = {}
    for kind in ("ddp", "fsdp"):
        subprocess.run([sys.executable, str(SCRIPT), str(tmp_path), kind], check=True, timeout=400)
        results[kind] = [json.loads((tmp_path / f"{kind}_{rank}.json").read_text()) for rank in (0, 1)]
    whole, sharded = results["ddp"], results["fsdp"]
    assert whole[0]["losses"] != whole[1]["losses"]  # each rank has chances of its own
    for one, other in zip(whole, sharded, strict=True):
        assert other["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert other["type"] == "DTensor"
        assert other["held"] == other["all"] / 2
    states = [load_inpainter(tmp_path / f"{kind}.ckpt").state_dict() for kind in results]
    for name, weight in states[0].items():
        torch.testing.assert_close(states[1][name], weight, rtol=1e-3, atol=1e-4)
