"""Devices and Accelerators: a process may use several precisions, one after the other."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from bootdiff.errors import BootdiffError
from bootdiff.training.device import DEVICES, chosen_device, chosen_precision, make_accelerator
from bootdiff.training.run import Run


def test_a_later_training_may_ask_for_another_precision():
    """accelerate keeps the first one for the whole process, and refuses another."""
    for precision in ("no", "bf16", "no"):
        accelerator = make_accelerator("cpu", precision)
        assert accelerator.mixed_precision == precision
        with accelerator.autocast():
            y = torch.ones(2, 2) @ torch.ones(2, 2)
        assert y.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)


@pytest.mark.parametrize(
    ("device", "has_units", "chosen"),
    [("cpu", True, "bf16"), ("cpu", False, "no"), ("cuda", True, "bf16"), ("cuda", False, "no"), ("mps", True, "no")],
)
def test_auto_is_bf16_where_the_device_computes_in_it(device, has_units, chosen, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_units)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_units)
    assert chosen_precision("auto", device) == chosen
    assert chosen_precision("fp16", device) == "fp16"
    if device == "cpu":
        assert make_accelerator("cpu", "auto").mixed_precision == chosen
        make_accelerator("cpu", "no")


def test_the_same_again_keeps_what_is_there():
    first = make_accelerator("cpu", "bf16")
    assert make_accelerator("cpu", "bf16").state.__dict__ is first.state.__dict__
    assert Accelerator(cpu=True).mixed_precision == "bf16"
    make_accelerator("cpu", "no")


def test_devices_by_name(monkeypatch):
    assert chosen_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert chosen_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    assert chosen_device("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BootdiffError, match="device: cuda: torch finds none here; write `device: auto`"):
        chosen_device("cuda")
    with pytest.raises(ValueError, match="device must be one of auto, cpu"):
        chosen_device("tpu")
    assert set(DEVICES) == {"auto", "cpu", "cuda", "mps"}


def test_a_run_that_goes_on_in_another_precision_says_so(tmp_path):
    Run.open(tmp_path / "run", None, precision="bf16").close()
    with Run.open(tmp_path / "run", None, precision="no") as run:
        (remark,) = run.remarks
    assert "mixed precision bf16 before, mixed precision no now" in remark
