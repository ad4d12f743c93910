"""What the page says of few steps before drawing."""

import pytest

from omg_ext.webui.few_steps import few_steps, guided_at_one, steps_over


@pytest.mark.parametrize(("start", "steps", "said"), [
    (0.4, 4, "Blend start: only 2 of 4 steps"), (0.4, 5, "only 3 of 5"), (0.4, 7, None), (0.0, 1, None),
    (0.7, 20, "only 6 of 20"), (0.6, 20, None), (1.0, 4, None), (0.9, 4, "none of the sampler's steps comes"),
    (0.3, 10, None),  # 0.3 * 10 is a little more than 3
])
def test_steps_after_the_blend_start(start, steps, said):
    lines = few_steps(start, steps)
    assert [said in line for line in lines] == [True] * bool(said)


@pytest.mark.parametrize(("steps", "strength", "is_fixed", "run"), [
    (20, 0.1, False, 3), (20, 1.0, False, 20), (20, 0.0, False, 1), (8, 0.5, False, 5),
    (20, 0.1, True, 20), (20, 1.0, True, 20), (20, 0.0, True, 0),
])
def test_steps_that_a_strength_leaves(steps, strength, is_fixed, run):
    whole, left = steps_over(steps, strength, is_fixed)
    assert left == run
    assert whole >= left


@pytest.mark.parametrize(("start", "steps", "strength", "said"), [
    (0.4, 20, 0.1, "Denoising strength: 0.1 leaves only 3 of the steps"), (0.4, 20, 0.5, None), (0.4, 20, 0.75, None),
    (0.9, 20, 0.75, "Blend start: only 2 of 16 steps"), (1.0, 20, 0.1, None),
])
def test_both_count_where_a_picture_is_given(start, steps, strength, said):
    lines = few_steps(start, *steps_over(steps, strength, is_fixed=False), strength)
    assert [said in line for line in lines] == [True] * bool(said)


@pytest.mark.parametrize(("cfg_scale", "concepts", "said"), [
    (1, [(0, 0, 0)], None), (7, [(8, 0, 1)], None), (1, [(1, 0, 0)], None),
    (1, [(0, 0, 0), (8, 0, 0)], "but concept 2 has guidance of its own"),
    (1, [(1, 2, 0), (0, 0, 0.1)], "but concepts 1 and 2 have guidance of their own"),
    (1, [(8, 8, 0)] * 3, "concepts 1, 2 and 3 have"),
])
def test_guidance_of_concepts_where_the_picture_has_none(cfg_scale, concepts, said):
    lines = guided_at_one(cfg_scale, concepts)
    assert [said in line for line in lines] == [True] * bool(said)
