"""Schedules, solvers and the denoising loop, each against an answer known from elsewhere.

The answers: Gaussian data, whose velocity has a closed form and whose samples must come out with its mean and
spread; ComfyUI's own run (fixtures/comfyui_ksampler.json); diffusers' UniPC scheduler.
"""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from wan_tutorial.errors import WanError
from wan_tutorial.noise import mix
from wan_tutorial.sampling import schedules
from wan_tutorial.sampling.denoise import SamplingSettings, denoise, guided_velocity
from wan_tutorial.sampling.schedules import SCHEDULERS, make_sigmas, shift_time
from wan_tutorial.sampling.solvers import SOLVERS, Step, euler, unipc_weights

COMFYUI = json.loads((Path(__file__).parent / "fixtures" / "comfyui_ksampler.json").read_text())
COMFYUI_SCHEDULERS = ["simple", "normal", "sgm_uniform", "beta"]


class GaussianVelocity:
    """The exact velocity for data ~ N(mean, spread^2), and a count of how often it was asked."""

    def __init__(self, mean: torch.Tensor | float, spread: float):
        self.mean, self.spread, self.sigmas = mean, spread, []

    def __call__(self, latent, sigma):
        self.sigmas.append(sigma)
        share = (1 - sigma) * self.spread**2 / ((1 - sigma) ** 2 * self.spread**2 + sigma**2)
        clean = self.mean + share * (latent - (1 - sigma) * self.mean)
        return (latent - clean) / sigma


def last(steps) -> Step:
    *_, step = steps
    return step


def plain_noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- the known answer: mean and spread

MEAN, SPREAD = 1.5, 0.35


def mean_and_spread(solver, *, steps=200):
    noise = plain_noise(20_000)
    noise = (noise - noise.mean()) / noise.std()
    sigmas = shift_time(torch.linspace(1, 0, steps + 1, dtype=torch.float64), 3.0)
    latent = last(solver(GaussianVelocity(MEAN, SPREAD), noise, sigmas)).latent
    return latent.mean().item(), latent.std().item()


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_have_the_mean_and_the_spread_of_the_data(name):
    mean, spread = mean_and_spread(SOLVERS[name])
    tolerance = 0.01 if name == "euler" else 0.003  # euler is of first order; ComfyUI's uni_pc stops at 0.001
    assert mean == pytest.approx(MEAN, abs=tolerance)
    assert spread == pytest.approx(SPREAD, abs=tolerance)


def backwards_in_time(velocity_of, latent, sigmas):
    yield from euler(velocity_of, latent, sigmas.flip(0).clamp(min=1e-3))


def wrong_sign(velocity_of, latent, sigmas):
    yield from euler(lambda x, sigma: -velocity_of(x, sigma), latent, sigmas)


def forgets_the_spread(velocity_of, latent, sigmas):
    yield from euler(lambda x, sigma: (x - MEAN) / sigma, latent, sigmas)  # goes straight to the mean


@pytest.mark.parametrize("broken", [backwards_in_time, wrong_sign, forgets_the_spread])
def test_the_known_answer_catches_broken_solvers(broken):
    mean, spread = mean_and_spread(broken)
    assert abs(mean - MEAN) > 0.02 or abs(spread - SPREAD) > 0.02


def test_going_straight_to_the_mean_has_the_right_mean():
    """Why the spread is checked too: this wrong solver passes any test that looks at the mean alone."""
    mean, _ = mean_and_spread(forgets_the_spread)
    assert mean == pytest.approx(MEAN, abs=1e-3)


def error_after(name, steps, reference, noise):
    sigmas = torch.linspace(
        0.95, 0.05, steps + 1, dtype=torch.float64
    )  # away from the ends, where order shows
    latent = last(SOLVERS[name](GaussianVelocity(MEAN, SPREAD), noise, sigmas)).latent
    return (latent - reference).abs().mean().item()


@pytest.mark.parametrize("name", SOLVERS)
def test_the_error_falls_with_the_order_of_the_solver(name):
    """Twice the steps: half the error for euler, a quarter for the rest; against 2000 float64 steps of heun.

    UniPC looks at more guesses than two, but its first and last steps cannot: the whole is of second order.
    """
    noise = plain_noise(500).double()
    sigmas = torch.linspace(0.95, 0.05, 2001, dtype=torch.float64)
    reference = last(SOLVERS["heun"](GaussianVelocity(MEAN, SPREAD), noise, sigmas)).latent
    measured = math.log2(error_after(name, 80, reference, noise) / error_after(name, 160, reference, noise))
    assert measured == pytest.approx(1 if name == "euler" else 2, abs=0.25)


@pytest.mark.parametrize("name", ["uni_pc", "uni_pc_bh2", "uni_pc_diffusers"])
def test_the_error_falls_faster_for_uni_pc_than_for_euler(name):
    """From 8 to 32 steps at shift 1, against 200 of heun: euler gains a factor of 4, uni_pc far more."""
    noise = plain_noise(500)
    reference = sample(noise, sampler="heun", shift=1.0, steps=200)

    def gain(sampler):
        errors = [
            (sample(noise, sampler=sampler, shift=1.0, steps=n) - reference).abs().mean() for n in (8, 32)
        ]
        return (errors[0] / errors[1]).item()

    assert gain("euler") < 4.5
    assert gain(name) > 2 * gain("euler")


def sample(noise, **settings):
    return last(denoise(GaussianVelocity(MEAN, SPREAD), noise, settings=SamplingSettings(**settings))).latent


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_steps_are_finite_and_one_is_euler(name, steps):
    noise = plain_noise(1, 2, 3)
    for scheduler in SCHEDULERS:
        assert sample(noise, sampler=name, scheduler=scheduler, steps=steps).isfinite().all()
    expected = last(euler(GaussianVelocity(MEAN, SPREAD), noise, [1.0, 0.0])).latent
    got = last(SOLVERS[name](GaussianVelocity(MEAN, SPREAD), noise, [1.0, 0.0])).latent
    torch.testing.assert_close(got, expected, atol=4e-3, rtol=0)


@pytest.mark.parametrize(("name", "calls"), [(name, 19 if name == "heun" else 10) for name in SOLVERS])
def test_model_calls_for_ten_steps(name, calls):
    velocity = GaussianVelocity(MEAN, SPREAD)
    sigmas = torch.linspace(1, 0, 11)
    steps = list(SOLVERS[name](velocity, plain_noise(5), sigmas))
    assert len(velocity.sigmas) == calls
    assert [step.index for step in steps] == list(range(10))
    assert [step.sigma for step in steps] == sigmas[:-1].tolist()
    assert [step.sigma_next for step in steps] == sigmas[1:].tolist()
    assert all(step.steps == 10 for step in steps)


def test_one_weight_is_a_half_and_more_are_exact_for_parabolas():
    """UniPC's rule integrates e^s g(s): with three guesses it must be exact for g = 1, s, s^2."""
    assert unipc_weights([-0.7], 0.4, math.expm1) == [0.5]
    length, places = 0.4, [-0.9, 1.0]
    for bend in (math.expm1, lambda hh: hh):
        weights = unipc_weights(places, length, bend)
        for power in (1, 2):  # g(s) = s^power with s = place * length
            rule = -bend(-length) * sum(
                rho / r * (r * length) ** power for rho, r in zip(weights, places, strict=True)
            )
            s = np.linspace(0, length, 100_001)
            exact = np.trapezoid(np.exp(s - length) * s**power, s)
            assert rule == pytest.approx(exact, rel=1e-8)


# --- ComfyUI


@pytest.mark.parametrize(
    "run", COMFYUI["runs"], ids=lambda run: f"{run['sampler']}-{run['steps']}-{run['shift']:g}"
)
def test_comfyuis_ksampler(run):
    noise = torch.tensor(COMFYUI["noise"]).reshape(COMFYUI["shape"])
    velocity = GaussianVelocity(torch.tensor(COMFYUI["mean"]).reshape(1, -1, 1, 1, 1), COMFYUI["spread"])
    names = ("sampler", "scheduler", "steps", "shift")
    settings = SamplingSettings(**{name: run[name] for name in names})
    step = last(denoise(velocity, noise, settings=settings))
    assert settings.sigmas.tolist() == pytest.approx(run["sigmas"], abs=1e-6)
    assert velocity.sigmas == pytest.approx(run["sigmas_seen_by_model"], abs=1e-6)
    assert step.latent.flatten().tolist() == pytest.approx(run["result"], abs=1e-6)


@pytest.mark.parametrize(
    ("steps", "shift", "dropping", "plain"),
    [
        (4, 8, "1 .9697 .9231 .8421 0", "1 .96 .8889 .7273 0"),
        (6, 8, "1 .9797 .9525 .9145 .8574 .7622 0", "1 .9757 .9413 .8889 .8005 .616 0"),
        (8, 5, "1 .9756 .946 .9092 .8623 .8004 .7149 .5893 0", "1 .9722 .9375 .8929 .8333 .75 .625 .4167 0"),
    ],
)
def test_simple_with_and_without_the_dropped_level(steps, shift, dropping, plain):
    for sampler, expected in (("uni_pc", dropping), ("uni_pc_bh2", dropping), ("euler", plain)):
        sigmas = make_sigmas(sampler, "simple", steps, shift)
        assert sigmas.tolist() == pytest.approx([float(level) for level in expected.split()], abs=6e-5)


def test_normal_and_sgm_uniform_by_hand():
    """Shift 2: the lowest level is 2 * .001 / 1.001, and is shifted once more at the end of "normal"."""
    lowest = shift_time(0.001, 2.0)
    middle = shift_time((1 + lowest) / 2, 2.0)
    assert make_sigmas("euler", "normal", 3, 2.0).tolist() == pytest.approx(
        [1, middle, shift_time(lowest, 2.0), 0], abs=1e-6
    )
    assert make_sigmas("euler", "sgm_uniform", 2, 2.0).tolist() == pytest.approx([1, middle, 0], abs=1e-6)


def test_beta_quantiles():
    """Beta(1/2, 1/2) is the arcsine law, whose quantile is sin^2(pi p / 2); Beta(1, 1) is even."""
    p = np.linspace(0, 1, 41)
    assert schedules.beta_quantile(p, shape=0.5) == pytest.approx(np.sin(np.pi * p / 2) ** 2, abs=1e-7)
    assert schedules.beta_quantile(p, shape=1.0) == pytest.approx(p, abs=1e-9)


def test_beta_by_scipy():
    """Computed once with scipy.stats.beta.ppf, which ComfyUI uses and this package does not need."""
    sigmas = make_sigmas("euler", "beta", 10, 1.0)
    places = [999, 959, 876, 765, 637, 500, 362, 234, 123, 40]
    assert sigmas.tolist() == pytest.approx([*((place + 1) / 1000 for place in places), 0], abs=1e-6)


def test_beta_places_are_scipys():
    stats = pytest.importorskip("scipy.stats", reason="scipy is only needed to check our own quantiles")
    for steps in range(1, 200):
        p = 1 - np.arange(steps) / steps
        ours, theirs = schedules.beta_quantile(p, shape=0.6), stats.beta.ppf(p, 0.6, 0.6)
        assert np.array_equal(np.rint(ours * 999), np.rint(theirs * 999)), steps


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("sampler", ["euler", "uni_pc"])
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0, 16.0])
def test_every_grid_falls_from_one_to_zero(scheduler, sampler, steps, shift):
    sigmas = make_sigmas(sampler=sampler, scheduler=scheduler, steps=steps, shift=shift)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == pytest.approx(1, abs=2e-3)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_beta_uses_coinciding_levels_once():
    sigmas = make_sigmas(sampler="euler", scheduler="beta", steps=600, shift=3.0)
    assert len(sigmas) < 601
    assert (sigmas.diff() < 0).all()


# --- diffusers and Wan


@pytest.mark.parametrize(
    ("steps", "shift"), [(1, 8), (2, 8), (4, 8), (6, 3), (8, 5), (9, 1), (20, 8), (50, 16)]
)
def test_diffusers_unipc(steps, shift):
    """Grid, cut timesteps and latents of UniPCMultistepScheduler as in WanVACEPipeline (measured: 3e-7)."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    scheduler.set_timesteps(steps)
    noise = plain_noise(1, 16, 3, 4, 4)
    velocity, latent = GaussianVelocity(plain_noise(1, 16, 3, 4, 4, seed=1), SPREAD), noise
    for timestep in scheduler.timesteps:
        answer = velocity(latent, timestep.item() / 1000)
        latent = scheduler.step(answer, timestep, latent).prev_sample

    settings = SamplingSettings(steps=steps, shift=shift, sampler="uni_pc_diffusers", scheduler="diffusers")
    ours = list(denoise(velocity, noise, settings=settings))
    assert torch.equal(settings.sigmas.float(), scheduler.sigmas)
    assert [step.timestep for step in ours] == scheduler.timesteps.tolist()
    assert (ours[-1].latent - latent).norm() / latent.norm() < 1e-5


@pytest.mark.parametrize(
    ("steps", "shift", "expected"),
    [
        (4, 8, ".9999 .9598 .8887 .727 0"),
        (6, 8, ".9999 .9755 .941 .8887 .7998 .6151 0"),
        (8, 5, ".9998 .972 .9373 .8926 .8331 .7497 .6247 .4164 0"),
    ],
)
def test_wans_own_grid(steps, shift, expected):
    sigmas = make_sigmas(sampler="euler", scheduler="official", steps=steps, shift=shift)
    assert sigmas.tolist() == pytest.approx([float(level) for level in expected.split()], abs=6e-5)


def test_timesteps_are_cut_to_whole_numbers_where_wan_does_so():
    """[999, 959, 888, 727]: as logged by users of Wan's own schedule at 4 steps and shift 8."""
    told = SamplingSettings(steps=4, sampler="uni_pc_diffusers", scheduler="official").timesteps
    assert told[:4] == [999, 959, 888, 727]
    told = SamplingSettings(steps=4, sampler="euler", scheduler="simple").timesteps
    assert told[:4] == pytest.approx([1000, 960, 888.88889, 727.27273], abs=1e-3)


# --- the loop


def test_steps_name_what_happened():
    velocity, noise = GaussianVelocity(MEAN, SPREAD), plain_noise(2, 3)
    settings = SamplingSettings(steps=5, sampler="euler", scheduler="simple")
    steps = list(denoise(velocity, noise, settings=settings))
    assert steps[0].latent_before is noise
    for before, after in pairwise(steps):
        assert after.latent_before is before.latent
    for step in steps:
        torch.testing.assert_close(step.clean_guess, step.latent_before - step.sigma * step.velocity)
        torch.testing.assert_close(
            step.latent, step.latent_before + (step.sigma_next - step.sigma) * step.velocity
        )
        assert step.timestep == pytest.approx(1000 * step.sigma)
        assert step.positive is None
        assert step.negative is None
    torch.testing.assert_close(steps[-1].latent, steps[-1].clean_guess)


def test_half_precision_models_leave_the_latent_in_float32():
    answers = GaussianVelocity(MEAN, SPREAD)
    settings = SamplingSettings(steps=3)
    step = last(denoise(lambda x, t: answers(x, t).bfloat16(), plain_noise(2, 3), settings=settings))
    assert step.latent.dtype == step.velocity.dtype == torch.float32


def test_leaving_early_asks_no_further():
    velocity = GaussianVelocity(MEAN, SPREAD)
    run = denoise(velocity, plain_noise(4), settings=SamplingSettings(steps=20))
    for step in run:
        if step.index == 2:
            break
    run.close()
    assert len(velocity.sigmas) == 3
    with pytest.raises(StopIteration):
        next(run)


def test_nothing_runs_before_the_first_step_is_taken():
    velocity = GaussianVelocity(MEAN, SPREAD)
    denoise(velocity, plain_noise(4), settings=SamplingSettings())
    assert velocity.sigmas == []


def test_no_gradients_inside_and_the_callers_untouched():
    weight = torch.ones(4, requires_grad=True)
    for step in denoise(lambda x, t: x * weight, plain_noise(4), settings=SamplingSettings(steps=2)):
        assert not step.latent.requires_grad
        assert torch.is_grad_enabled()


def test_an_error_in_the_model_reaches_the_caller():
    def broken(latent, sigma):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        next(denoise(broken, plain_noise(4), settings=SamplingSettings()))


# --- denoise below 1


@pytest.mark.parametrize("sampler", ["euler", "uni_pc"])
@pytest.mark.parametrize(("steps", "strength", "whole"), [(10, 0.5, 20), (4, 0.57, 7), (20, 0.8, 25)])
def test_denoise_below_one_is_the_tail_of_a_longer_schedule(sampler, steps, strength, whole):
    sigmas = make_sigmas(sampler, "simple", steps, 8.0, strength)
    assert torch.equal(sigmas, make_sigmas(sampler, "simple", whole, 8.0)[-(steps + 1) :])


@pytest.mark.parametrize("sampler", SOLVERS)
def test_denoise_below_one_starts_between_the_video_and_the_noise(sampler):
    noise, start = plain_noise(1, 16, 2, 3, 3), plain_noise(1, 16, 2, 3, 3, seed=1)
    settings = SamplingSettings(steps=4, denoise=0.5, sampler=sampler)
    steps = list(denoise(lambda x, t: noise - start, noise, settings=settings, start=start))
    torch.testing.assert_close(steps[0].latent_before, mix(start, noise, steps[0].sigma))
    assert 0 < steps[0].sigma < 1
    assert len(steps) == 4
    # this velocity leads straight back, but for the 0.001 of noise that ComfyUI's uni_pc leaves
    torch.testing.assert_close(steps[-1].latent, start, atol=5e-3, rtol=0)


def test_denoise_of_one_ignores_what_it_starts_from():
    noise, start = plain_noise(2, 3), plain_noise(2, 3, seed=1)
    settings = SamplingSettings(steps=4, scheduler="simple")
    with_start = last(denoise(GaussianVelocity(MEAN, SPREAD), noise, settings=settings, start=start))
    without = last(denoise(GaussianVelocity(MEAN, SPREAD), noise, settings=settings))
    assert torch.equal(with_start.latent, without.latent)


# --- guidance


class ToyModel:
    """A "transformer" whose velocity depends on everything it is given; remembers the shapes of its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, latent, timestep, text):
        self.calls.append((tuple(latent.shape), timestep.tolist(), tuple(text.shape)))
        scale = text.mean(dim=(1, 2)) * timestep / 1000  # (B,)
        return latent * 0.1 + scale.reshape(-1, *[1] * (latent.ndim - 1))


POSITIVE, NEGATIVE = plain_noise(1, 6, 4, seed=5), plain_noise(1, 6, 4, seed=6)


@pytest.mark.parametrize("batch", [1, 3])
def test_both_prompts_together_equal_one_after_the_other(batch):
    latent = plain_noise(batch, 2, 3, 3, 3)
    together = guided_velocity(ToyModel(), POSITIVE, NEGATIVE, 6.0)
    in_turn = guided_velocity(ToyModel(), POSITIVE, NEGATIVE, 6.0, together=False)
    torch.testing.assert_close(together(latent, 0.7), in_turn(latent, 0.7))
    assert together.model.calls == [
        ((2 * batch, 2, 3, 3, 3), [pytest.approx(700)] * 2 * batch, (2 * batch, 6, 4))
    ]
    assert len(in_turn.model.calls) == 2


def test_guidance_goes_past_the_negative_prompt():
    latent = plain_noise(1, 2, 3, 3, 3)
    plain = [guided_velocity(ToyModel(), text, None, 1.0)(latent, 0.5) for text in (POSITIVE, NEGATIVE)]
    for guidance in (0.0, 2.0, 6.0):
        expected = plain[1] + guidance * (plain[0] - plain[1])
        velocity = guided_velocity(ToyModel(), POSITIVE, NEGATIVE, guidance)(latent, 0.5)
        torch.testing.assert_close(velocity, expected)


def test_guidance_one_skips_the_negative_prompt():
    settings = SamplingSettings(steps=4, guidance=1.0)
    model, noise = ToyModel(), plain_noise(1, 2, 3, 3, 3)
    results = []
    for negative in (NEGATIVE, -NEGATIVE, None):
        steps = list(denoise(guided_velocity(model, POSITIVE, negative, 1.0), noise, settings=settings))
        results.append(steps[-1].latent)
        assert all(step.negative is None for step in steps)
    assert len(model.calls) == 3 * 4
    assert all(shape[0] == 1 for shape, _, _ in model.calls)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("sampler", SOLVERS)
def test_steps_carry_both_halves_of_the_guided_velocity(sampler):
    velocity_of = guided_velocity(ToyModel(), POSITIVE, NEGATIVE, 6.0)
    settings = SamplingSettings(steps=4, sampler=sampler)
    for step in denoise(velocity_of, plain_noise(1, 2, 3, 3, 3), settings=settings):
        torch.testing.assert_close(step.velocity, step.negative + 6.0 * (step.positive - step.negative))


def test_the_model_is_told_the_truncated_timestep():
    model = ToyModel()
    settings = SamplingSettings(steps=4, sampler="uni_pc_diffusers", scheduler="official", guidance=1.0)
    velocity_of = guided_velocity(model, POSITIVE, None, settings.guidance)
    list(denoise(velocity_of, plain_noise(1, 2, 3, 3, 3), settings=settings))
    assert [timestep for _, timestep, _ in model.calls] == [[999], [959], [888], [727]]


def test_guidance_without_a_negative_prompt():
    with pytest.raises(WanError, match="A guidance of 6 needs a negative prompt, which may be empty"):
        guided_velocity(ToyModel(), POSITIVE, None, 6.0)


def test_embeddings_of_different_lengths():
    with pytest.raises(WanError, match="must have one shape, not \\(1, 6, 4\\) and \\(1, 5, 4\\)"):
        guided_velocity(ToyModel(), POSITIVE, NEGATIVE[:, :5], 6.0)


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"sampler": "unipc"},
            "There is no sampler called 'unipc'. Did you mean uni_pc? Known: euler, heun, ",
        ),
        ({"sampler": "lcm"}, "There is no sampler called 'lcm'. Known: euler, heun, dpmpp_2m, uni_pc, "),
        (
            {"scheduler": "simpel"},
            "There is no scheduler called 'simpel'. Did you mean simple? Known: simple, ",
        ),
        ({"steps": 0}, "The steps must be a whole number, 1 or more, not 0: try 20."),
        ({"steps": 2.5}, "The steps must be a whole number, 1 or more, not 2.5: try 20."),
        ({"guidance": -1}, "The guidance must be a number from 0 to 100, not -1: try 6, or 1 for none."),
        ({"guidance": math.nan}, "The guidance must be a number from 0 to 100, not nan"),
        ({"guidance": "6"}, "The guidance must be a number from 0 to 100, not '6'"),
        ({"guidance": 10**400}, "The guidance must be a number from 0 to 100, not 1000"),
        ({"sampler": ["euler"]}, "There is no sampler called ['euler']"),
        ({"shift": 0}, "The shift must be a number from 0.01 to 100, not 0: try 8, or 1 for none."),
        ({"shift": 1e9}, "The shift must be a number from 0.01 to 100, not 1000000000.0"),
        ({"shift": math.inf}, "The shift must be a number from 0.01 to 100, not inf"),
        ({"denoise": 0}, "The denoise must be above 0 and at most 1, not 0: try 1, or 0.6."),
        ({"denoise": 1.01}, "The denoise must be above 0 and at most 1, not 1.01"),
        ({"denoise": math.nan}, "The denoise must be above 0 and at most 1, not nan"),
        (
            {"steps": 1000},
            "The steps with uni_pc may be 999 at most, as the model's clock has 1000 ticks, not 1000:",
        ),
        ({"steps": 1001, "sampler": "euler"}, "The steps with euler may be 1000 at most"),
        (
            {"steps": 20, "denoise": 0.01},
            "The steps with uni_pc may be 999 at most, as the model's clock has 1000 ticks, not 2000 (20 at denoise 0.01):",
        ),
    ],
)
def test_settings_that_cannot_work(settings, sentence):
    with pytest.raises(WanError) as error:
        SamplingSettings(**settings)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("shift", [0.01, 100.0])
@pytest.mark.parametrize("sampler", SOLVERS)
def test_the_largest_and_smallest_shift_leave_room_between_levels(sampler, shift):
    for steps in (1, 7, 990):
        settings = SamplingSettings(steps=steps, shift=shift, sampler=sampler)
        *_, last = denoise(GaussianVelocity(0, 1), plain_noise(4), settings=settings)
        assert last.latent.isfinite().all()


def test_an_answer_that_is_no_number_is_not_painted():
    def broken(latent, sigma):
        return latent * float("nan")

    with pytest.raises(WanError, match="At noise level 1 the model answers with numbers that are not finite"):
        list(denoise(broken, plain_noise(4), settings=SamplingSettings(steps=2)))


def test_part_of_the_way_needs_a_video_to_start_from():
    with pytest.raises(WanError, match=r"A denoise of 0\.6 goes only part of the way into noise"):
        denoise(GaussianVelocity(0, 1), plain_noise(4), settings=SamplingSettings(denoise=0.6))


def test_a_start_of_another_shape():
    with pytest.raises(WanError, match=r"must have the shape of the noise, \(4,\), not \(5,\)"):
        denoise(
            GaussianVelocity(0, 1),
            plain_noise(4),
            settings=SamplingSettings(denoise=0.6),
            start=plain_noise(5),
        )
