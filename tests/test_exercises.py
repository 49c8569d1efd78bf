"""Every checker is itself checked: it passes its solution, names each misconception, and never raises."""

import inspect

import pytest
import torch

from wan_tutorial.exercises import (
    attention,
    bits,
    comparing,
    first,
    graphs,
    lora,
    marking,
    pixels,
    prompts,
    references,
    running,
    starts,
    steps,
    training,
)
from wan_tutorial.exercises.marking import Exercise, Misconception, agrees, check, mark
from wan_tutorial.quantization import dequantize_fp8, quantize_fp8
from wan_tutorial.reference import mask_channels, read_given
from wan_tutorial.sampling.solvers import euler
from wan_tutorial.sizes import VideoSize

MODULES = (
    first,
    prompts,
    starts,
    steps,
    attention,
    bits,
    graphs,
    pixels,
    lora,
    training,
    references,
    running,
    comparing,
)
EXERCISES = [one for module in MODULES for one in vars(module).values() if isinstance(one, Exercise)]
WRONG = [
    pytest.param(exercise, wrong, id=f"{exercise.name}-{number}")
    for exercise in EXERCISES
    for number, wrong in enumerate(exercise.misconceptions)
]

exercises = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)


@pytest.fixture(autouse=True)
def fresh_attempts():
    marking._attempts.clear()


@exercises
def test_the_solution_passes(exercise):
    assert mark(exercise, exercise.solution).mark == "right"


@exercises
def test_there_are_three_hints_three_misconceptions_and_a_checker(exercise):
    assert len(exercise.hints) == 3 and all(exercise.hints)
    told = {wrong.explanation for wrong in exercise.misconceptions}
    assert len(told) == len(exercise.misconceptions) >= 3
    assert any(vars(module).get(f"check_{exercise.name}") is exercise for module in MODULES)
    assert exercise(exercise.solution) is exercise.solution


@pytest.mark.parametrize(("exercise", "wrong"), WRONG)
def test_a_wrong_answer_runs_has_the_right_shape_and_is_told_what_it_did(
    exercise: Exercise, wrong: Misconception
):
    inputs = exercise.inputs(torch.Generator().manual_seed(0))
    for arguments in inputs:
        assert marking._wrong_kind(exercise.solution(*arguments), wrong.function(*arguments)) is None
    verdict = mark(exercise, wrong.function)
    assert verdict.mark == "wrong"
    assert verdict.message == f"Not yet: {wrong.explanation}"


@exercises
def test_inputs_are_random_and_the_same_every_time(exercise):
    one, two = (list(exercise.inputs(torch.Generator().manual_seed(0))) for _ in range(2))
    assert agrees([list(arguments) for arguments in one], [list(arguments) for arguments in two])


@exercises
def test_an_empty_stub_is_told_so_and_the_lesson_goes_on(exercise, capsys):
    assert check(exercise, lambda *arguments: ...) is exercise.solution
    assert check(exercise, lambda *arguments: None) is exercise.solution
    told = capsys.readouterr().out
    assert told.count("is still empty") == 2 and "Hint" not in told

    def not_implemented(*arguments):
        raise NotImplementedError

    assert mark(exercise, not_implemented).mark == "empty"


def test_the_kits_own_answer_is_not_praised(capsys):
    handed_back = steps.check_euler_step(lambda *arguments: ...)
    steps.check_euler_step(handed_back, hint=1)  # the checker's cell run again, and not the learner's
    told = capsys.readouterr().out
    assert "the kit's own here, not yours" in told and "Hint 1 of 3" in told and "Right" not in told


def test_hints_come_one_by_one_and_all_on_request(capsys):
    wrong = steps.check_euler_step.misconceptions[0].function
    for level in (1, 2, 3, 4):
        assert steps.check_euler_step(wrong) is steps.euler_step
        told = capsys.readouterr().out
        assert told.count("Hint") == 1 and f"Hint {min(level, 3)} of 3" in told
    steps.check_euler_step(lambda *arguments: ..., hint=3)
    assert capsys.readouterr().out.count("Hint") == 3
    assert steps.check_euler_step(steps.euler_step) is steps.euler_step
    assert "Hint" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda latent, velocity, sigma, sigma_next: latent / "2", "TypeError"),
        (lambda latent: latent, "TypeError"),
        (
            lambda latent, velocity, sigma, sigma_next: latent.mean(),
            "a tensor of shape (1, 16, 2, 3, 4), not ()",
        ),
        (lambda latent, velocity, sigma, sigma_next: 3, "a tensor of shape (1, 16, 2, 3, 4), not 3"),
        (lambda latent, velocity, sigma, sigma_next: latent * 0, "one of its numbers is"),
        (lambda latent, velocity, sigma, sigma_next: latent * float("nan"), "one of its numbers is"),
        (7, "pass the function itself"),
        (lambda latent, *_: latent * 1j, "of real numbers, not of complex ones"),
        (lambda latent, *_: latent.to_sparse(), "a Tensor that cannot be compared with"),
    ],
)
def test_any_other_wrong_answer_is_told_kindly(answer, told):
    verdict = mark(steps.check_euler_step, answer)
    assert verdict.mark == "wrong" and told in verdict.message


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda video, mask: video, "2 tensors in a tuple, not a tensor (5, 8, 12, 3)"),
        (lambda video, mask: (video,), "2 tensors, not 1"),
        (lambda video, mask: (video, mask), "a tensor of shape (5, 8, 12, 3), not (5, 8, 12)"),
        (lambda video, mask: (0.5 * video, video), "part 0 of split_video(a tensor (5, 8, 12, 3)"),
    ],
)
def test_of_two_tensors_the_wrong_one_is_named(answer, told):
    verdict = mark(references.check_split_video, answer)
    assert verdict.mark == "wrong" and told in verdict.message


def test_an_answer_may_change_its_inputs_in_place():
    def in_place(latent, velocity, sigma, sigma_next):
        return latent.add_(velocity.mul_(sigma_next - sigma))

    assert mark(steps.check_euler_step, in_place).mark == "right"


def test_numbers_tuples_and_truths_are_told_apart():
    assert agrees(1.0, torch.tensor(1.00001)) and not agrees(1.0, 1.01)
    assert agrees((1, 2), [1, 2]) and not agrees((1, 2), (1, 2, 3))
    assert agrees(True, True) and not agrees(True, 1) and not agrees(1.0, True)
    assert "a number" in marking._wrong_kind(1.0, "one")
    assert "True or False" in marking._wrong_kind(True, 1)
    assert "4 numbers" in marking._wrong_kind((1, 2, 3, 4), (1, 2))


# ------------------------------------------------------------ the solutions are what the package itself does


def test_sizes_are_the_packages_own():
    for width, height, frames in first.SIZES:
        if height % 16 == 0:
            assert (
                first.latent_shape(width, height, frames) == VideoSize(width, height, frames).latent_shape[1:]
            )


def test_a_walk_is_the_arc_and_keeps_the_spread_that_a_straight_mix_loses():
    right, up = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(starts.walk_noise(right, up, 1 / 3), torch.tensor([3**0.5 / 2, 0.5]))
    a, b = torch.randn(2, 16, 4, 12, 12, generator=torch.Generator().manual_seed(1)).unbind()
    torch.testing.assert_close(starts.walk_noise(a, b, 0.0), a)
    assert (starts.walk_noise(a, b, 0.5).std() - 1).abs() < 0.03
    assert (starts.mix(a, b, 0.5).std() - 0.5**0.5).abs() < 0.03


def test_the_step_is_the_packages_own():
    latent, velocity = torch.randn(2, 1, 16, 2, 3, 4).unbind()
    (step,) = euler(lambda latent, sigma: velocity, latent, [0.7, 0.2])
    torch.testing.assert_close(steps.euler_step(latent, velocity, 0.7, 0.2), step.latent)


def test_an_fp8_byte_is_what_torch_reads():
    weights, scale = quantize_fp8(torch.randn(64, generator=torch.Generator().manual_seed(1)))
    expected = dequantize_fp8(weights, scale)
    for byte, value in zip(weights.view(torch.uint8).tolist(), expected.tolist(), strict=True):
        assert prompts.fp8_value(byte, scale.item()) == pytest.approx(value, rel=1e-6)


def test_a_context_cut_by_hand_is_the_packages_own():
    video, mask = torch.rand(5, 16, 32, 3) * 2 - 1, (torch.rand(5, 16, 32) > 0.5).float()
    given = read_given(VideoSize(32, 16, 5), video=video, mask=mask)
    for mine, own in zip(references.split_video(video, mask), (given.inactive, given.reactive), strict=True):
        torch.testing.assert_close(mine, own)
    own_cells = mask_channels(mask)[0]
    assert references.context_shape(32, 16, 5, 0) == (32 + 64, *own_cells.shape[1:])
    assert torch.equal(torch.stack([references.mask_cells(mask[i]) for i in (1, 3)], dim=1), own_cells)


def test_cosine_is_torchs():
    a, b = torch.randn(2, 32).unbind()
    torch.testing.assert_close(prompts.cosine(a, b), torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_solutions_are_short():
    for exercise in EXERCISES:
        lines = inspect.getsource(exercise.solution).splitlines()
        assert len(lines) <= 10, f"{exercise.name} is {len(lines)} lines long"
