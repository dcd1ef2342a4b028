"""Own views and networks in a recipe, by import path, and only where imports are trusted."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from accelerate import Accelerator

from bootdiff.errors import BootdiffError
from bootdiff.recipe.build import build_problem
from bootdiff.recipe.schema import load_recipe, load_recipe_text, reference
from bootdiff.recipe.trust import trust_imports, trusted
from bootdiff.serialization import CLASSES
from bootdiff.spec import decode, encode
from bootdiff.training.run import Run
from bootdiff.views import compose, from_config
from method_calls import bootstrap

MODULE = """
from pathlib import Path
import torch
from bootdiff.views import View
Path(__file__).with_suffix(".ran").touch()

class Every(View):
    def __init__(self, step, phase=0):
        if step < 1:
            raise ValueError("step must be at least 1")
        self.step, self.phase = step, phase
    def shape(self, full):
        return (*full[:-1], len(range(self.phase, full[-1], self.step)))
    def forward(self, x):
        return x[..., self.phase :: self.step]
    def adjoint(self, y, full):
        x = y.new_zeros(len(y), *full)
        x[..., self.phase :: self.step] = y
        return x

class Hidden(Every):
    masked = True
    def __init__(self, image):
        super().__init__(1)
        self.image = image

class Tiny(torch.nn.Module):
    def __init__(self, c_in, c_out, width=4):
        super().__init__()
        if width < 1:
            raise ValueError("width must be at least 1")
        self.a, self.b = torch.nn.Conv2d(c_in, width, 1), torch.nn.Conv2d(width, c_out, 1)
    def forward(self, x, c_noise, label=None):
        return self.b(self.a(x).tanh() + c_noise[:, None, None, None])

number = 3
"""
RECIPE = """\
full: {{path: photos}}
views:
  odd:
    view: {view}
    data: {{path: small}}
backbones: {backbones}
"""


def recipe(view="{kind: mine.parts:Every, step: 2}", backbones="{unet: auto}"):
    return RECIPE.format(view=view, backbones=backbones)


@pytest.fixture
def parts(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "parts.py").write_text(MODULE)
    (tmp_path / "mine" / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "mine" / "parts.ran"
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def test_by_default_a_recipe_runs_no_code(parts):
    for text in (recipe(), recipe("gray", "{tiny: {kind: mine.parts:Tiny}}")):
        with pytest.raises(BootdiffError, match=r"would run code of `mine\.parts`; if you trust it.*--trust-imports"):
            load_recipe_text(text)
    assert not trusted()
    assert not parts.exists()
    with trust_imports():
        assert trusted()
        with trust_imports(False):
            assert not trusted()
    assert not trusted()


def test_a_recipe_in_a_run_directory_is_under_the_same_rule(parts, tmp_path):
    (tmp_path / "recipe.yaml").write_text(recipe())
    with pytest.raises(BootdiffError, match=r"recipe\.yaml, line 4: views\.odd\.view\.kind: this recipe would"):
        load_recipe(tmp_path / "recipe.yaml")
    assert not parts.exists()


def test_an_own_view(parts):
    with trust_imports():
        made = load_recipe_text(recipe("[{kind: mine.parts:Every, step: 2}, {kind: downsample, factor: 2}]"))
        again = load_recipe_text(made.dump())
    assert parts.exists()
    view = compose(*map(from_config, made.view_configs("odd")))
    assert view.shape((1, 8, 8)) == (1, 4, 2)
    assert view.inner.step == 2
    assert again.dump() == made.dump()
    assert again.fingerprint() == made.fingerprint()
    assert "kind: mine.parts:Every\n      step: 2" in made.dump()
    with trust_imports():
        other = load_recipe_text(recipe("{kind: mine.parts:Every, step: 4}"))
        short = load_recipe_text(recipe("[{kind: mine.parts:Every, step: 2}, gray]"))
    assert other.fingerprint() != made.fingerprint()
    assert short.view_configs("odd")[0]["step"] == 2


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ("{kind: mine.parts:Every}", r"views\.odd\.view: view Every: .*'step'; its arguments: step, phase"),
        ("{kind: mine.parts:Every, stp: 2}", r"views\.odd\.view: view Every: unknown stp; known: step, phase"),
        ("{kind: mine.parts:Every, step: 0}", r"views\.odd\.view: step must be at least 1"),
        ("{kind: mine.parts:Evry, step: 2}", r"view\.kind: `mine\.parts` has no 'Evry'; it has .*Every"),
        ("{kind: mine.part:Every, step: 2}", r"view\.kind: there is no module 'mine\.part'.*PYTHONPATH"),
        ("{kind: mine.broken:Every, step: 2}", r"view\.kind: importing `mine\.broken` failed: ZeroDivisionError"),
        ("{kind: mine.parts:number}", r"view\.kind: must be a class that inherits from bootdiff\.views\.View"),
        ("{kind: mine.parts:Tiny}", r"view\.kind: must be a class that inherits"),
        ("{kind: 'mine parts:Every'}", r"view\.kind: must be an import path such as mypackage\.module:MyClass"),
        ("{kind: 'mine.parts:'}", r"view\.kind: must be an import path"),
    ],
)
def test_mistakes_are_named(parts, view, said):
    with trust_imports(), pytest.raises(BootdiffError, match=said) as error:
        load_recipe_text(recipe(view))
    assert str(error.value).startswith("recipe, line 4: views.odd.view")


def test_an_own_view_may_have_an_argument_called_image_and_may_hide_something(parts):
    with trust_imports():
        made = load_recipe_text(recipe("{kind: mine.parts:Hidden, image: logo.png}"))
        assert made.view_configs("odd")[0]["image"] == "logo.png"
        assert load_recipe_text(made.dump()).fingerprint() == made.fingerprint()
        inner = "{kind: mine.parts:Hidden, image: x}\n    views: {w: {view: gray, data: {path: x}}}"
        with pytest.raises(BootdiffError, match="a view that hides a part cannot have views of its own"):
            load_recipe_text(recipe(inner).replace("    data: {path: small}\n", ""))


def test_own_kinds_are_in_the_reference_and_among_the_known_ones():
    keys = [entry.key for entry in reference()]
    assert "views.<name>.view[mypackage.module:MyView]" in keys
    with pytest.raises(
        BootdiffError, match=r"unknown kind, got 'every'; known: identity, .*, mypackage\.module:MyView"
    ):
        load_recipe_text(recipe("{kind: every}"))


# Networks


def test_an_own_network(parts):
    text = recipe("gray", "{tiny: {kind: mine.parts:Tiny, width: 6}, plain: mine.parts:Tiny}")
    text = text.replace("view: gray", "view: gray\n    backbone: mine.parts:Tiny")
    with trust_imports():
        made = load_recipe_text(text)
        again = load_recipe_text(made.dump())
    assert again.dump() == made.dump()
    assert again.fingerprint() == made.fingerprint()
    network = made.backbones["tiny"].network()
    net = network.resolve((1, 8, 8), (1, 8, 8)).build(2, (1, 8, 8))
    assert net.config == {"c_in": 2, "c_out": 1, "width": 6}
    assert network.describe() != made.backbones["plain"].network().describe()
    assert network.describe() == again.backbones["tiny"].network().describe()
    # a view's own one is called as the recipe's, or else by its class
    assert list(made.backbones_for("odd")) == ["plain"]
    with trust_imports():
        alone = load_recipe_text(text.replace(", plain: mine.parts:Tiny", ""))
    assert list(alone.backbones_for("odd")) == ["tiny"]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("{kind: mine.parts:Tinny}", r"backbones\.a\.kind: `mine\.parts` has no 'Tinny'"),
        ("{kind: mine.parts:number}", r"backbones\.a\.kind: must be a class or function that makes a torch module"),
    ],
)
def test_mistakes_in_own_networks_are_named(parts, block, said):
    with trust_imports(), pytest.raises(BootdiffError, match=said):
        load_recipe_text(recipe("gray", f"{{a: {block}}}"))


@pytest.mark.parametrize(
    ("options", "said"),
    [("wdth: 3", "unexpected keyword argument 'wdth'"), ("c_in: 3", "multiple values"), ("width: 0", "at least 1")],
)
def test_arguments_of_own_networks_are_checked_when_built(parts, options, said):
    with trust_imports():
        made = load_recipe_text(recipe("gray", f"{{a: {{kind: mine.parts:Tiny, {options}}}}}"))
    with pytest.raises(ValueError, match=said):
        made.backbones["a"].network().build(2, (1, 8, 8))


def test_a_model_of_diffusers_needs_no_trust():
    args = "{num_layers: 1, num_attention_heads: 2, attention_head_dim: 8}"
    made = load_recipe_text(recipe("gray", f"{{dit: {{kind: diffusers, class: DiTTransformer2DModel, args: {args}}}}}"))
    assert load_recipe_text(made.dump()).dump() == made.dump()
    network = made.backbones["dit"].network()
    assert network.describe()["class"] == "DiTTransformer2DModel"
    assert network.build(2, (1, 8, 8)).config["args"]["num_layers"] == 1
    assert made.backbones["dit"].label == "dittransformer2dmodel"
    with pytest.raises(
        BootdiffError, match=r"line 6: backbones\.dit\.class: missing, but required: name of the model's"
    ):
        load_recipe_text(recipe("gray", "{dit: {kind: diffusers}}"))
    wrong = load_recipe_text(recipe("gray", "{dit: {kind: diffusers, class: DiT}}"))
    with pytest.raises(BootdiffError, match="diffusers has no model class 'DiT'"):
        wrong.backbones["dit"].network().resolve((1, 8, 8), (1, 8, 8))


def test_own_parts_are_trained_saved_and_found_again(parts, tmp_path):
    text = """
simulate: {pool: {path: digits, limit: 40}, full: 10}
views: {odd: {view: {kind: "mine.parts:Every", step: 2}}}
levels: [0.3, 1.5]
training: {steps: 4, batch: 4, evaluate_every: 2, warmup: 1}
backbones: {tiny: {kind: "mine.parts:Tiny", width: 6}}
"""
    with trust_imports():
        made = load_recipe_text(text)
    problem, log = build_problem(made), []
    for _ in range(2):
        with Run.open(tmp_path / "run", text, main=True) as run:
            model = bootstrap(made, problem, run, Accelerator(cpu=True), log=log.append).denoiser("bootdiff").eval()
        trained = [line for line in log if "held-out loss" in line]
    assert len(trained) == len(set(trained)) >= 2  # the view's and full-only's, by the first run only
    spec = json.loads(json.dumps(encode(model)))
    with pytest.raises(ValueError, match=r"pass classes=\[Tiny\]"):
        decode(spec, CLASSES)
    own = sys.modules["mine.parts"]
    again = decode(spec, {**CLASSES, "Tiny": own.Tiny, "Every": own.Every}).eval()
    again.load_state_dict(model.state_dict())
    x, sigma = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 1.0])
    assert torch.equal(again(x, sigma), model(x, sigma))
    assert encode(again) == encode(model)
