from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

from rlalign.envs.spaces import ActionScale


def test_scale_maps_the_unit_cube_onto_the_bounds_and_back():
    scale = ActionScale.of(Box(np.array([-2, 0], np.float32), np.array([4, 1], np.float32)))
    agent = np.array([[-1, -1], [0, 0], [1, 1], [0.5, -0.5]], np.float32)
    environment = scale.to_environment(agent)
    np.testing.assert_allclose(environment, np.array([[-2, 0], [1, 0.5], [4, 1], [2.5, 0.25]]))
    np.testing.assert_allclose(scale.to_agent(environment), agent, atol=1e-6)


def test_scaled_actions_never_leave_the_bounds():
    space = Box(np.float32(-0.1), np.float32(0.3), (1000,), np.float32)
    actions = np.random.default_rng(0).choice([-1.5, -1.0, 1.0, 1.5], 1000).astype(np.float32)
    assert space.contains(ActionScale.of(space).to_environment(actions))


def test_unit_bounds_leave_actions_alone():
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    scale = ActionScale(-np.ones(3), np.ones(3))
    np.testing.assert_array_equal(scale.to_environment(actions), actions)
    np.testing.assert_array_equal(scale.to_agent(actions), actions)
