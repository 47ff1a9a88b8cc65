"""Which setting was meant: another library's name for one, one of the online phase, a typo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlalign.suggestions import did_you_mean, one_of

# What stable-baselines3, d3rlpy, CORL and CleanRL call settings of ours.
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "gamma": ("discount",),
    "tau": ("target_rate",),
    "polyak": ("target_rate",),
    "lr": ("actor_learning_rate", "critic_learning_rate"),
    "learning_rate": ("actor_learning_rate", "critic_learning_rate"),
    "actor_lr": ("actor_learning_rate",),
    "policy_lr": ("actor_learning_rate",),
    "critic_lr": ("critic_learning_rate",),
    "qf_lr": ("critic_learning_rate",),
    "vf_lr": ("value_learning_rate",),
    "net_arch": ("hidden",),
    "hidden_dim": ("hidden",),
    "hidden_dims": ("hidden",),
    "hidden_units": ("hidden",),
    "n_critics": ("critics",),
    "num_critics": ("critics",),
    "num_qs": ("critics",),
    "ent_coef": ("initial_temperature",),
    "policy_noise": ("target_noise",),
    "noise_clip": ("target_noise_clip",),
    "target_smoothing_sigma": ("target_noise",),
    "target_smoothing_clip": ("target_noise_clip",),
    "policy_freq": ("policy_delay",),
    "update_actor_interval": ("policy_delay",),
    "observation_scaler": ("observation_normalization",),
    "normalize_states": ("observation_normalization",),
    "reward_scaler": ("reward_scale",),
    "iql_tau": ("expectile",),
    "weight_temp": ("beta",),
    "awac_lambda": ("temperature",),
    "conservative_weight": ("cql_weight",),
    "min_q_weight": ("cql_weight",),
    "cql_alpha": ("cql_weight",),
    "n_action_samples": ("action_samples",),
    "learning_starts": ("warmup_steps", "random_steps"),
    "start_steps": ("random_steps",),
    "train_freq": ("update_after",),
    "gradient_steps": ("updates_per_step",),
    "utd_ratio": ("updates_per_step",),
    "n_envs": ("environments",),
    "num_envs": ("environments",),
    "replay_size": ("buffer_size",),
    "offline_ratio": ("offline_fraction",),
    "mixing_ratio": ("offline_fraction",),
}


def setting_hint(name: str, names: Sequence[str], online: Sequence[str]) -> str:
    """End a sentence about an unknown setting: which one may have been meant.

    Args:
        name: what was given.
        names: the settings there are.
        online: those of the online phase, where they are others.
    """
    meant = (name, *OTHER_NAMES.get(name, ()))
    for known, where in ((names, ""), (online, ", of the online phase (`online:` or `learn()`)")):
        found = [other for other in meant if other in known]
        if found:
            return one_of(found, where)
    return did_you_mean(name, names) or f"; it has {', '.join(names)}"


def no_effect(names: Sequence[str], replay: str) -> str:
    """Say that settings of the online phase mean nothing under a replay."""
    return f"online {' and '.join(names)} without effect, since replay is {replay!r}"
