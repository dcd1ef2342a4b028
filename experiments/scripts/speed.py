"""How fast is the loop, the composite's sampling, resuming, and a second process?  Ratios within one run.

    python -m experiments.scripts.speed loop      [--net cats|digits] [--steps 60]
    python -m experiments.scripts.speed sampling RUN [--count 16] [--rounds 5]
    python -m experiments.scripts.speed resume    [--steps 60]
    python -m experiments.scripts.speed processes [--steps 60]
    each with [--out experiments/results/speed/NAME.json]

`loop`: seconds per training step, same network, same batch, same samples, same optimizer and average of the weights, of

    bare      a plain PyTorch loop: batch, EDM loss, backward, clipped step, average; no logging, no checkpoint
    bootdiff  `training.loop.fit`, with metrics, progress and checkpoints as a run has them
    example   the loop of diffusers' unconditional training example: DataLoader, DDPM noise, accelerate, EMAModel,
              learning-rate scheduler, progress bar and a logged loss in each step

A step lasts from asking for its batch to asking for the next one. The three take steps in turn, so that the machine's
speed drops out of the ratios; given are the median over the steps and its quartiles. `sampling`: seconds per sample of
bootdiff's denoiser against full-only's, against the distilled one's where the run has it, and against each network of
full-only by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bootdiff.data import Arrays, Batches
from bootdiff.denoise import IsotropicGaussian
from bootdiff.method.composite import CompositeDenoiser
from bootdiff.method.losses import LossModule, ResidualObjective
from bootdiff.method.residual import ResidualExpert
from bootdiff.method.stack import StackedDenoiser
from bootdiff.nets import build_net
from bootdiff.noise import LEVELS, LogNormal
from bootdiff.training.loop import fit
from bootdiff.training.run import Run
from bootdiff.training.settings import TrainingSettings
from experiments.scripts.results import ROOT, write_result

__all__ = ["Turns", "main", "summary"]

BATCH, RATE, DECAY = 32, 1e-3, 0.999
NETS: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "cats": ((3, 32, 32), {"channels": [32, 64, 64], "attention": [], "patch": 2}),
    "digits": ((1, 8, 8), {"channels": [24, 48], "attention": []}),
}


def loss_module(name: str) -> tuple[LossModule, CompositeDenoiser]:
    """A new expert without views: the same weights each time."""
    shape, options = NETS[name]
    torch.manual_seed(0)
    base = IsotropicGaussian(shape, [0.0] * shape[0], 0.5)
    none = CompositeDenoiser({}, base, LEVELS)
    return LossModule(ResidualExpert(build_net("unet", shape[0], shape, **options), none)), none


def samples(name: str, count: int = 2048) -> Arrays:
    """Random pixels of the network's shape, the same each time."""
    c, h, w = NETS[name][0]
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, h, w, c), generator=generator, dtype=torch.uint8)
    return Arrays(pixels.numpy())


class Turns:
    """Loops in threads that take steps in turn, one at a time; notes what each step took.

    The order is drawn again in each round: whoever follows a loop of the same code finds the caches warm.
    """

    def __init__(self, names: list[str]) -> None:
        self.names, self.now, self.change = names, names[0], threading.Condition()
        self.left, self.random = names[1:], random.Random(0)
        self.taken: dict[str, list[float]] = {name: [] for name in names}

    def stream(self, name: str, batches: Iterator[Any]) -> Iterator[Any]:
        """`batches`, each handed out when it is the turn of `name`; a step ends when the next batch is asked for."""
        while True:
            with self.change:
                self.change.wait_for(lambda: self.now == name)
            start = time.perf_counter()
            yield next(batches)  # the loop's own way to its batch is part of the step
            self.taken[name].append(time.perf_counter() - start)
            self._pass_on(name)

    def run(self, name: str, loop: Callable[..., None], *args: Any) -> None:
        """`loop` to its end, after which the others go on without it."""
        try:
            loop(*args, partial(self.stream, name))
        finally:
            self._pass_on(name, leave=True)

    def _pass_on(self, name: str, leave: bool = False) -> None:
        with self.change:
            if leave:
                self.names.remove(name)
                self.left = [other for other in self.left if other != name]
            if self.now == name and self.names:
                self.left = self.left or self.random.sample(self.names, len(self.names))
                self.now = self.left.pop(0)
            self.change.notify_all()


class Stamped:
    """Batches that pass through `note`, an iterator over them."""

    def __init__(self, batches: Batches, note: Callable[[Iterator[Any]], Iterator[Any]]) -> None:
        self.batches, self.note = batches, note

    def stream(self, start: int = 0) -> Iterator[dict[str, Tensor]]:
        yield from self.note(self.batches.stream(start))


Note = Callable[[Iterator[Any]], Iterator[Any]]


def bare(name: str, steps: int, note: Note) -> None:
    """A plain PyTorch loop."""
    model, composite = loss_module(name)
    objective = ResidualObjective(composite, LogNormal())
    params: list[Tensor] = list(model.parameters())
    averages = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=RATE, weight_decay=0.0, fused=True)
    generator = torch.Generator()
    for t, batch in zip(range(steps), note(Batches(samples(name), 1.0, BATCH).stream()), strict=False):
        objective(model.train(), batch, generator.manual_seed(t)).mean().backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(averages, params, 1 - DECAY)


def settings(steps: int, **changes: Any) -> TrainingSettings:
    """How all of them are trained."""
    return TrainingSettings(steps=steps, lr=RATE, warmup=0, schedule="constant", ema=DECAY, **changes)


def ours(name: str, steps: int, note: Note) -> None:
    """The library's loop, as a run has it."""
    from accelerate import Accelerator

    model, composite = loss_module(name)
    with tempfile.TemporaryDirectory() as folder, Run.open(Path(folder) / "run", "speed: {}") as run:
        batches: Any = Stamped(Batches(samples(name), 1.0, BATCH), note)
        fit(
            model, ResidualObjective(composite, LogNormal()), batches, run.stage("unet"), settings(steps),
            accelerator=Accelerator(cpu=not torch.cuda.is_available()), progress=lambda _: None,
        )  # fmt: skip


def example(name: str, steps: int, note: Note) -> None:
    """The steps of diffusers' examples/unconditional_image_generation, for this network and data."""
    import torch.nn.functional as f
    from accelerate import Accelerator
    from diffusers.optimization import get_scheduler
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.training_utils import EMAModel
    from tqdm.auto import tqdm

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    model, _ = loss_module(name)
    net: Any = model.expert.net.unet
    ema = EMAModel(net.parameters(), decay=DECAY, use_ema_warmup=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.95, 0.999), weight_decay=1e-6)
    schedule = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=10_000)
    patch = NETS[name][1].get("patch", 1)
    source = samples(name)

    class Pictures(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return len(source)

        def __getitem__(self, i: int) -> Tensor:
            return f.pixel_unshuffle(source[i].x, patch) if patch > 1 else source[i].x

    loader = torch.utils.data.DataLoader(Pictures(), batch_size=BATCH, shuffle=True)
    net, optimizer, loader, schedule = accelerator.prepare(net, optimizer, loader, schedule)
    noising = DDPMScheduler(num_train_timesteps=1000)

    def epochs() -> Iterator[Tensor]:
        while True:
            yield from loader

    sink = open(os.devnull, "w")  # noqa: SIM115 - closed with the bar, below
    bar = tqdm(total=steps, file=sink)
    for _, clean in zip(range(steps), note(epochs()), strict=False):
        with accelerator.accumulate(net):
            noise = torch.randn(clean.shape, dtype=torch.float32, device=clean.device)
            t = torch.randint(0, 1000, (len(clean),), device=clean.device).long()
            loss = f.mse_loss(net(noising.add_noise(clean, noise, t), t).sample.float(), noise.float())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            ema.step(net.parameters())
            bar.update(1)
        bar.set_postfix(loss=loss.detach().item(), lr=schedule.get_last_lr()[0], ema_decay=ema.cur_decay_value)
    bar.close()
    sink.close()


def summary(values: list[float]) -> dict[str, Any]:
    """Median and quartiles.

    >>> summary([1.0, 2.0, 3.0, 4.0, 5.0])
    {'median': 3.0, 'quartiles': [1.5, 4.5]}
    """
    quartiles = statistics.quantiles(values, n=4)[::2] if len(values) > 1 else [values[0]] * 2
    return {"median": statistics.median(values), "quartiles": quartiles}


def loop(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds per step of the three loops, and their speed as a share of the bare one's."""
    ways: dict[str, Callable[[str, int, Note], None]] = {"bare": bare, "bootdiff": ours, "example": example}
    # Imported before the threads begin, which must not import the same module at once.
    import accelerate  # noqa: F401
    import diffusers.training_utils  # noqa: F401
    from diffusers.models.unets.unet_2d import UNet2DModel  # noqa: F401

    turns = Turns(list(ways))
    threads = [threading.Thread(target=turns.run, args=(way, run, args.net, args.steps)) for way, run in ways.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    skip = args.steps // 6
    times = {way: turns.taken[way][skip : args.steps - 1] for way in ways}
    speed = {way: summary([b / t for b, t in zip(times["bare"], times[way])]) for way in ways}
    for way in ways:
        each = 1e3 * statistics.median(times[way])
        print(f"{way:9s} {each:7.2f} ms per step, speed {speed[way]['median']:.3f} of bare")
    return {"net": args.net, "batch": BATCH, "seconds_per_step": times, "speed_of_bare": speed}


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each round in which `count` samples are drawn with each denoiser of the run."""
    from bootdiff.cli.session import load_arm, read_run, saved_arms
    from bootdiff.sampling import sample

    device = "cuda" if torch.cuda.is_available() else "cpu"
    _, recipe = read_run(args.run)
    full: Any = load_arm(args.run, "full_only", device)[1]
    named = ["bootdiff", *(arm for arm in saved_arms(args.run) if arm == "distilled")]
    arms: dict[str, Any] = {arm: load_arm(args.run, arm, device)[1] for arm in named} | {"full_only": full}
    for k, expert in enumerate(full.experts):
        weights = [[1.0]] * len(full.levels)
        arms[f"full-only's network {k + 1}"] = StackedDenoiser(
            full.composite, [expert], full.levels.tolist(), weights
        ).to(device)
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    how = asdict(recipe.sampling.settings())
    for _ in range(args.rounds):
        for arm, denoiser in arms.items():
            start = time.perf_counter()
            sample(denoiser, args.count, seed=0, **how)
            times[arm].append(time.perf_counter() - start)
    ratio = {arm: summary([b / t for b, t in zip(times["bootdiff"], ts)]) for arm, ts in times.items()}
    for arm, ts in times.items():
        each = statistics.median(ts) / args.count
        print(f"{arm:24s} {1e3 * each:8.1f} ms per sample; bootdiff takes {ratio[arm]['median']:.2f} times as long")
    return {
        "run": Path(args.run).name,
        "count": args.count,
        "sampling": how,
        "seconds": times,
        "bootdiff_against": ratio,
    }


def resume(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the call of `fit` to its first step: from nothing, and from a checkpoint."""
    from accelerate import Accelerator

    from bootdiff.training.loop import Interrupted

    took: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for what in ("start", "resume"):
            model, composite = loss_module(args.net)
            begin = time.perf_counter()

            def note(batches: Iterator[Any], what: str = what, begin: float = begin) -> Iterator[Any]:
                for k, batch in enumerate(batches):
                    took.setdefault(what, time.perf_counter() - begin)
                    if what == "start" and k == args.steps // 2:
                        os.kill(os.getpid(), signal.SIGTERM)
                    yield batch

            with Run.open(Path(folder) / "run", "speed: {}") as run, contextlib.suppress(Interrupted):
                fit(
                    model, ResidualObjective(composite, LogNormal()),
                    cast(Any, Stamped(Batches(samples(args.net), 1.0, BATCH), note)),
                    run.stage("unet"), settings(args.steps, checkpoint_seconds=1e-9),  # after every step
                    accelerator=Accelerator(cpu=not torch.cuda.is_available()),
                )  # fmt: skip
    print(f"first step after {took['start']:.2f} s from nothing, after {took['resume']:.2f} s from a checkpoint")
    return {"net": args.net, "seconds_to_first_step": took}


def worker(args: argparse.Namespace) -> None:
    """One process of `processes`: prints seconds per step."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    torch.set_num_threads(1)
    model, composite = loss_module(args.net)
    stamps: list[float] = []

    def note(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            stamps.append(time.perf_counter())
            yield batch

    rank, world = accelerator.process_index, accelerator.num_processes
    batches: Any = Stamped(Batches(samples(args.net), 1.0, 2 * BATCH, rank=rank, world=world), note)
    with Run.open(args.folder, "speed: {}", main=accelerator.is_main_process) as run:
        accelerator.wait_for_everyone()
        fit(
            model, ResidualObjective(composite, LogNormal()), batches, run.stage("unet"),
            settings(args.steps), accelerator=accelerator,
        )  # fmt: skip
    if accelerator.is_main_process:
        steps = [b - a for a, b in itertools.pairwise(stamps)]
        print(f"seconds per step: {statistics.median(steps[len(steps) // 6 :])}", flush=True)


def processes(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds per step of the same global batch, by one process of one thread and by two."""
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(args.rounds):
        for n in times:
            folder = tempfile.mkdtemp()
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}"]
            options = ["--net", args.net, "--steps", str(args.steps), "--folder", folder]
            call = [*launch, "-m", "experiments.scripts.speed", "worker", *options]
            out = subprocess.run(call, check=True, capture_output=True, text=True, cwd=ROOT).stdout
            times[n].append(float(out.split("seconds per step:")[1].split()[0]))
            shutil.rmtree(folder)
    faster = summary([a / b for a, b in zip(times[1], times[2])])
    print(f"two processes are {faster['median']:.2f} times as fast as one")
    return {"net": args.net, "global_batch": 2 * BATCH, "seconds_per_step": times, "speedup": faster}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one thing, print it and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = {"loop": loop, "sampling": sampling, "resume": resume, "processes": processes}
    parser.add_argument("what", choices=[*what, "worker"])
    parser.add_argument("run", nargs="?", help="for sampling: a run with the arms full_only and bootdiff")
    parser.add_argument("--net", choices=list(NETS), default="cats")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(given)
    if args.what == "worker":
        worker(args)
        return
    if args.what == "sampling" and not args.run:
        parser.error("sampling needs a run")
    result = {"what": args.what, **what[args.what](args), "threads": torch.get_num_threads()}
    result["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    write_result(args.out, "speed", given, result)


if __name__ == "__main__":
    main()
