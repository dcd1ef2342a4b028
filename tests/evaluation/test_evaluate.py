"""Losses against closed forms, errors against the bootstrap, information against Gaussians' divergences."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from bootdiff.denoise import Denoiser, IsotropicGaussian
from bootdiff.distributions.exact import Gaussian
from bootdiff.errors import BootdiffError
from bootdiff.evaluation.evaluate import (
    gap_closed,
    holdout_losses,
    information,
    markdown_table,
    sample_losses,
    tabulate,
    write_metrics,
)
from bootdiff.method.stages import ARMS
from bootdiff.method.validation import SampleSet
from bootdiff.training.files import read_json

LEVELS = (0.1, 0.4, 1.6)
SHAPE = (1, 2, 3)
WHITE = IsotropicGaussian(SHAPE, [0.2], 0.5)


def law(scale=(2.0, 1.0, 0.5, 0.2, 0.1, 0.05)):
    """A Gaussian about 0.2 with these eigenvalues and some eigenvectors."""
    basis = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    return Gaussian(
        torch.full(SHAPE, 0.2, dtype=torch.float64), basis @ torch.diag(torch.tensor(scale).double()) @ basis.T
    )


def draw(of, n, seed=0):
    return SampleSet(of.sample(n, torch.Generator().manual_seed(seed)).float())


def expected_loss(of, sigma, sigma_data):
    """tr S sigma^2 / (S + sigma^2) / (c_out^2 d): the exact denoiser's loss under its own Gaussian law."""
    lam = torch.linalg.eigvalsh(of.cov)
    c_out2 = sigma**2 * sigma_data**2 / (sigma**2 + sigma_data**2)
    return float((lam * sigma**2 / (lam + sigma**2)).mean() / c_out2)


class Recorder(Denoiser):
    def __init__(self, value=0.0):
        super().__init__()
        self.shape, self.value, self.seen = SHAPE, value, []

    def forward(self, x, sigma, label=None, context=None):
        self.seen.append((x.clone(), sigma.clone()))
        return torch.full_like(x, self.value)


# Losses


def test_the_exact_denoiser_has_the_loss_of_the_closed_form():
    p = law()
    table = holdout_losses({"exact": p}, draw(p, 3000), LEVELS, WHITE, draws=2)
    for s in LEVELS:
        got = table["exact"]["per_level"][f"{s:g}"]
        assert abs(got["mean"] - expected_loss(p, s, WHITE.sigma_data)) < 4 * got["stderr"] < 0.1
    expected = np.mean([expected_loss(p, s, WHITE.sigma_data) for s in LEVELS])
    assert abs(table["exact"]["mean"] - expected) < 4 * table["exact"]["stderr"]


@pytest.mark.parametrize("seed", range(4))
def test_the_white_base_has_loss_one_on_white_data(seed):
    """Whatever seed the data was made with: the evaluation's own seed 0 gives other noise."""
    x = 0.2 + 0.5 * torch.randn(4000, *SHAPE, generator=torch.Generator().manual_seed(seed))
    for got in holdout_losses({"base": WHITE}, SampleSet(x), LEVELS, WHITE)["base"]["per_level"].values():
        assert abs(got["mean"] - 1) < 4 * got["stderr"] < 0.05


def test_all_denoisers_hear_the_same_noise():
    a, b, samples = Recorder(), Recorder(1.0), draw(law(), 70)
    sample_losses({"a": a, "b": b}, samples, LEVELS, WHITE, draws=2, seed=3)
    alone = Recorder()
    sample_losses({"alone": alone}, samples, LEVELS, WHITE, draws=2, seed=3)
    other = Recorder()
    sample_losses({"other": other}, samples, LEVELS, WHITE, draws=2, seed=4)
    assert len(a.seen) == len(LEVELS) * 2 * 2  # levels, draws, batches of 64
    for (x, s), (x_b, s_b), (x_alone, _), (x_other, _) in zip(a.seen, b.seen, alone.seen, other.seen, strict=True):
        assert torch.equal(x, x_b)
        assert torch.equal(s, s_b)
        assert torch.equal(x, x_alone)
        assert not torch.equal(x, x_other)
    assert not torch.equal(a.seen[0][0], a.seen[2][0])  # the two draws of one level


def test_only_what_a_mask_shows_counts():
    """An estimate of 1 against x0 = 0: squared error 1 over c_out^2 where seen, whatever is hidden."""
    mask = torch.zeros(5, 1, 2, 3)
    mask[:, :, 0] = 1
    x = torch.where(mask > 0, 0.0, 100.0)
    loss = sample_losses({"one": Recorder(1.0)}, SampleSet(x, None, mask), LEVELS, WHITE)["one"]
    c_out2 = torch.tensor([s**2 * 0.25 / (s**2 + 0.25) for s in LEVELS], dtype=torch.float64)
    torch.testing.assert_close(loss, (1 / c_out2)[:, None].expand(-1, 5), rtol=1e-5, atol=0)


def test_a_diverged_denoiser_is_named():
    with pytest.raises(BootdiffError, match=r"bad: .* sigma 0.1 on sample 0"):
        sample_losses({"bad": Recorder(math.nan)}, draw(law(), 3), LEVELS, WHITE)
    with pytest.raises(ValueError, match="need samples"):
        sample_losses({"bad": Recorder()}, draw(law(), 0), LEVELS, WHITE)


def made_up(n=400, seed=0):
    """Losses that share most of their noise, as arms at the same noisy samples do."""
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(3, n, generator=g, dtype=torch.float64)
    own = {arm: 0.2 * torch.randn(3, n, generator=g, dtype=torch.float64) for arm in ARMS}
    means = dict(zip(ARMS, (0.6, 0.9, 0.7, 0.45, 0.47, 0.4), strict=True))
    return {arm: means[arm] + 0.5 * common + own[arm] for arm in ARMS}


def bootstrap(losses, figure, times=400):
    """Standard deviation of a figure over samples drawn again with replacement."""
    g = torch.Generator().manual_seed(9)
    n = next(iter(losses.values())).shape[1]
    values = []
    for _ in range(times):
        at = torch.randint(n, (n,), generator=g)
        values.append(figure({arm: loss[:, at] for arm, loss in losses.items()}))
    return np.std(values)


def test_standard_errors_match_the_bootstrap():
    losses = made_up()
    table = tabulate(losses, LEVELS)
    weights = torch.tensor([9, 24.5, 75]).double() / (9 + 24.5 + 75)  # the shares of the levels' ranges by their levels
    for got, figure in (
        (table["bootdiff"], lambda of: float(of["bootdiff"].mean())),
        (table["bootdiff"]["per_level"]["0.4"], lambda of: float(of["bootdiff"][1].mean())),
        (table["bootdiff"]["versus"]["oracle"], lambda of: float((of["bootdiff"] - of["oracle"]).mean())),
        (table["bootdiff"]["sample_weighted"], lambda of: float((weights @ of["bootdiff"]).mean())),
        (
            table["bootdiff"]["versus"]["oracle"]["sample_weighted"],
            lambda of: float((weights @ (of["bootdiff"] - of["oracle"])).mean()),
        ),
    ):
        assert got["mean"] == pytest.approx(figure(losses))
        assert got["stderr"] == pytest.approx(bootstrap(losses, figure), rel=0.12)
    paired = table["bootdiff"]["versus"]["oracle"]["stderr"]
    assert paired < 0.7 * math.hypot(table["bootdiff"]["stderr"], table["oracle"]["stderr"])


def test_differences_are_antisymmetric_and_levels_average_to_the_mean():
    table = tabulate(made_up(), LEVELS)
    a, b = table["full_only"]["versus"]["oracle"], table["oracle"]["versus"]["full_only"]
    assert a["mean"] == pytest.approx(-b["mean"])
    assert a["stderr"] == pytest.approx(b["stderr"])
    assert a["mean"] == pytest.approx(table["full_only"]["mean"] - table["oracle"]["mean"])
    for entry in table.values():
        assert entry["mean"] == pytest.approx(np.mean([row["mean"] for row in entry["per_level"].values()]))


def test_one_sample_has_no_error():
    table = tabulate({arm: loss[:, :1] for arm, loss in made_up().items()}, LEVELS)
    assert math.isfinite(table["oracle"]["mean"])
    assert math.isnan(table["oracle"]["stderr"])


def test_losses_of_different_sizes_are_refused():
    losses = made_up()
    with pytest.raises(ValueError, match="the same for all arms"):
        tabulate(losses | {"oracle": losses["oracle"][:, 1:]}, LEVELS)
    with pytest.raises(ValueError, match="4 levels"):
        tabulate(losses, (*LEVELS, 6.4))


# The gap


def test_gap_closed_on_made_up_losses():
    """Full-only 4, oracle 2 and an arm at 2.5 on every sample: three quarters, known exactly."""
    flat = {
        arm: torch.full((3, 5), value).double() for arm, value in zip(ARMS, (4.0, 5.0, 3.0, 2.5, 2.6, 2.0), strict=True)
    }
    got = gap_closed(tabulate(flat, LEVELS))
    assert (got["mean"], got["stderr"]) == (0.75, 0)
    assert all(row == {"mean": 0.75, "stderr": 0} for row in got["per_level"].values())
    assert got["sample_weighted"] == pytest.approx({"mean": 0.75, "stderr": 0})
    assert gap_closed(tabulate(flat, LEVELS), "views_only")["mean"] == -0.5
    assert gap_closed(tabulate(flat, LEVELS), "oracle", to="unregularized")["mean"] == 2
    assert math.isnan(gap_closed(tabulate(flat, LEVELS), of="oracle", to="full_only")["mean"])  # no way up to go


def test_the_share_of_the_mean_is_not_the_mean_of_the_shares():
    full, arm, oracle = ([1.0, 8.0, 4.0], [0.0, 8.0, 4.0], [0.0, 0.0, 4.0])
    losses = {
        name: torch.tensor(v, dtype=torch.float64)[:, None].expand(3, 4)
        for name, v in (("full_only", full), ("bootdiff", arm), ("oracle", oracle))
    }
    got = gap_closed(tabulate(losses, LEVELS))
    assert got["mean"] == pytest.approx(1 / 9)
    assert [row["mean"] for row in got["per_level"].values()][:2] == [1, 0]
    assert math.isnan(got["per_level"]["1.6"]["mean"])  # no gap there


def test_the_error_of_the_gap_matches_the_bootstrap():
    losses = made_up()
    got = gap_closed(tabulate(losses, LEVELS))

    def share(of):
        f, b, o = (float(of[arm].mean()) for arm in ("full_only", "bootdiff", "oracle"))
        return (f - b) / (f - o)

    assert got["mean"] == pytest.approx(share(losses))
    assert got["stderr"] == pytest.approx(bootstrap(losses, share), rel=0.12)
    level = gap_closed(tabulate({arm: loss[1:2] for arm, loss in losses.items()}, LEVELS[1:2]))
    assert got["per_level"]["0.4"] == pytest.approx({key: level[key] for key in ("mean", "stderr")})


def test_a_gap_needs_its_arms():
    losses = made_up()
    del losses["oracle"]
    with pytest.raises(ValueError, match="'oracle', but the table holds full_only"):
        gap_closed(tabulate(losses, LEVELS))


# Information


def kl(p, q, sigma):
    """KL(p * N(0, sigma^2) || q * N(0, sigma^2)) of Gaussians of one mean, nats."""
    a, b = (law.cov + sigma**2 * torch.eye(law.dim, dtype=torch.float64) for law in (p, q))
    return float(torch.trace(torch.linalg.solve(b, a)) - law().dim + torch.logdet(b) - torch.logdet(a)) / 2


FINE = torch.logspace(-1, 1, 25, dtype=torch.float64).tolist()


def test_information_of_expected_losses_is_the_difference_of_divergences():
    """Between two noise levels the integral is KL there less KL here (de Bruijn): exact losses, a fine grid."""
    p, q = law(), Gaussian(law().mean, 0.3 * torch.eye(6, dtype=torch.float64))
    lam = torch.linalg.eigvalsh(p.cov)
    base = IsotropicGaussian(SHAPE, [0.2], 0.5)
    grid = torch.logspace(-1, 1, 400, dtype=torch.float64)
    c_out2 = grid**2 * 0.25 / (grid**2 + 0.25)
    k = 0.3 / (0.3 + grid**2)
    of = ((1 - k)[:, None] ** 2 * lam + (k * grid)[:, None] ** 2).mean(1) / c_out2
    than = (lam * grid[:, None] ** 2 / (lam + grid[:, None] ** 2)).mean(1) / c_out2
    got = information({"q": of[:, None], "p": than[:, None]}, grid.tolist(), base, "q", "p")
    expected = kl(p, q, 0.1) - kl(p, q, 10.0)
    assert got["nats"] == pytest.approx(expected, rel=1e-3)
    assert got["bits_per_dim"] == pytest.approx(expected / 6 / math.log(2), rel=1e-3)
    assert got["nats"] < kl(p, q, 1e-6)
    assert got["range"] == pytest.approx([0.1, 10])


def test_information_measured_on_samples():
    p, q = law(), Gaussian(law().mean, 0.3 * torch.eye(6, dtype=torch.float64))
    losses = sample_losses({"q": q, "p": p}, draw(p, 1000), FINE, WHITE, draws=2)
    got = information(losses, FINE, WHITE, "q", "p")
    assert abs(got["nats"] - (kl(p, q, 0.1) - kl(p, q, 10.0))) < 4 * got["stderr"] < 0.5 * got["nats"]
    back = information(losses, FINE, WHITE, "p", "q")
    assert back["nats"] == pytest.approx(-got["nats"])
    assert information(losses, FINE, WHITE, "p", "p")["nats"] == 0


def test_the_interval_covers_the_closed_form_restricted_to_the_range():
    """20 sets of 40 samples at eight levels; fixed seeds."""
    p, q = law(), Gaussian(law().mean, 0.3 * torch.eye(6, dtype=torch.float64))
    levels = [0.05 * 2.0**k for k in range(8)]
    expected = p.kl(q, levels[0]) - p.kl(q, levels[-1])
    hits, narrow = 0, 0
    for seed in range(20):
        losses = sample_losses({"q": q, "p": p}, draw(p, 40, seed), levels, WHITE, draws=2, seed=seed)
        got = information(losses, levels, WHITE, "q", "p")
        low, high = got["interval"]["nats"]
        assert low < got["nats"] < high
        hits += low <= expected <= high
        low, high = information(losses, levels, WHITE, "q", "p", confidence=0.5)["interval"]["nats"]
        narrow += low <= expected <= high
    assert hits >= 18 > narrow
    assert got["interval"]["bits"][1] == pytest.approx(got["interval"]["nats"][1] / math.log(2))
    assert got["interval"]["bits_per_dim"][0] == pytest.approx(got["interval"]["bits"][0] / 6)
    assert got["bits"] == pytest.approx(6 * got["bits_per_dim"])


def test_the_rules_error_is_part_of_the_interval():
    """Losses without sampling error on coarse levels: what is left is the trapezoid rule's error, and it is covered."""
    p, q = law(), Gaussian(law().mean, 0.3 * torch.eye(6, dtype=torch.float64))
    lam = torch.linalg.eigvalsh(p.cov)
    for ratio in (2.0, 3.0):
        sigma = 0.05 * ratio ** torch.arange(7, dtype=torch.float64)
        c_out2, k = sigma**2 * 0.25 / (sigma**2 + 0.25), 0.3 / (0.3 + sigma**2)
        of = ((1 - k)[:, None] ** 2 * lam + (k * sigma)[:, None] ** 2).mean(1) / c_out2
        than = (lam * sigma[:, None] ** 2 / (lam + sigma[:, None] ** 2)).mean(1) / c_out2
        losses = {"q": of[:, None].expand(-1, 2), "p": than[:, None].expand(-1, 2)}
        got = information(losses, sigma.tolist(), IsotropicGaussian(SHAPE, [0.2], 0.5), "q", "p")
        expected = p.kl(q, float(sigma[0])) - p.kl(q, float(sigma[-1]))
        low, high = got["interval"]["nats"]
        assert got["stderr"] < 1e-12 < got["quadrature"]
        assert low < expected < high
        assert got["ends"][1] < 0.02 < got["ends"][0] <= 1
    assert math.isnan(information({k: v[:2] for k, v in losses.items()}, [0.1, 0.2], WHITE, "q", "p")["quadrature"])
    one = information({k: v[:, :1] for k, v in losses.items()}, sigma.tolist(), WHITE, "q", "p")
    assert math.isnan(one["interval"]["nats"][0])


def test_a_worse_denoiser_tells_of_less():
    """Where the second denoiser is not exact the figure is lower: it stays a lower bound."""
    p, q = law(), Gaussian(law().mean, 0.3 * torch.eye(6, dtype=torch.float64))
    rough = Gaussian(p.mean, p.cov + 0.02 * torch.eye(6, dtype=torch.float64))
    losses = sample_losses({"q": q, "p": p, "rough": rough}, draw(p, 1000), FINE, WHITE, draws=1)
    exact, less = (information(losses, FINE, WHITE, "q", than) for than in ("p", "rough"))
    assert less["nats"] < exact["nats"]


def test_information_checks_its_levels():
    losses = {"views_only": torch.ones(2, 3).double(), "bootdiff": torch.ones(2, 3).double()}
    for levels in ([0.1], [0.2, 0.1], [0.1, 0.2, 0.3]):
        with pytest.raises(ValueError, match="ascending"):
            information(losses, levels, WHITE)
    with pytest.raises(ValueError, match="confidence"):
        information(losses, [0.1, 0.2], WHITE, confidence=1.0)
    with pytest.raises(ValueError, match="'nobody'"):
        information(losses, [0.1, 0.2], WHITE, of="nobody")


# The file


def write(path, losses, **more):
    return write_metrics(
        path, table=tabulate(losses, LEVELS), levels=LEVELS, count=400, evaluated_on="test", seed=1, **more
    )


def test_metrics_json_has_the_arms_with_mean_and_error(tmp_path):
    losses = made_up()
    said = write(tmp_path / "metrics.json", losses, recipe="full: {path: digits}\n", samples={"oracle": {"fid": 1.0}})
    read = read_json(tmp_path / "metrics.json")
    assert list(read["holdout_loss"]) == list(ARMS)
    for arm, loss in losses.items():
        assert read["holdout_loss"][arm]["mean"] == pytest.approx(float(loss.mean()))
        assert read["holdout_loss"][arm]["stderr"] == pytest.approx(float(loss.mean(0).std()) / 20)
    assert read["gap_closed"]["mean"] == pytest.approx(gap_closed(tabulate(losses, LEVELS))["mean"])
    assert (read["evaluated_on"], read["count"], read["levels"], read["seed"]) == ("test", 400, list(LEVELS), 1)
    assert read["versions"]["torch"] == torch.__version__
    assert "/" not in read["command"].split(" ")[0]
    assert read == json.loads(json.dumps(said))
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_held_out_numbers_say_that_they_are_optimistic(tmp_path):
    table = tabulate(made_up(), LEVELS)
    path = tmp_path / "metrics.json"
    said = write_metrics(path, table=table, levels=LEVELS, count=9, evaluated_on="held-out", seed=0)
    assert "optimistic" in said["evaluated_on"]
    with pytest.raises(ValueError, match="'test', 'held-out'"):
        write_metrics(path, table=table, levels=LEVELS, count=9, evaluated_on="train", seed=0)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write(path, made_up())
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(BootdiffError, match="no room"):
        write(path, made_up(seed=1))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_without_an_oracle_there_is_no_gap(tmp_path):
    losses = {arm: loss[:, :1] for arm, loss in made_up().items() if arm != "oracle"}
    write(tmp_path / "metrics.json", losses)
    read = read_json(tmp_path / "metrics.json")
    assert read["gap_closed"] is None
    assert read["holdout_loss"]["full_only"]["stderr"] is None  # one sample: NaN is null in JSON


def test_markdown_has_a_row_for_each_arm():
    losses = made_up()
    lines = markdown_table(tabulate(losses, LEVELS)).splitlines()
    assert len(lines) == 2 + len(ARMS)
    assert {line.count("|") for line in lines} == {len(LEVELS) + 5}
    assert lines[0] == "| arm | 0.1 | 0.4 | 1.6 | mean | standard error | sample-weighted |"
    cells = lines[2].split(" | ")
    assert cells[0] == "| full_only"
    assert float(cells[4]) == pytest.approx(float(losses["full_only"].mean()), abs=5e-4)
    weighted = float(torch.tensor([9, 24.5, 75]).double() @ losses["full_only"].mean(1)) / (9 + 24.5 + 75)
    assert float(cells[6].strip("| ")) == pytest.approx(weighted, abs=5e-4)
