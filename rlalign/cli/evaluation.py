"""`rlalign evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlalign.cli.arguments import LARGEST_SEED, Checkpoint, Device, refuse_options
from rlalign.errors import RlalignError

if TYPE_CHECKING:
    from rlalign.evaluate import Episodes

_EVALUATION = 3  # beside a seed: 1 is of random actions, 2 of evaluations while training
EXAMPLE = "Example: rlalign evaluate runs/demo-seed0 --episodes 20 --video videos"


def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run directory, an agent's file, or a model of stable-baselines3.",
            metavar="RUN",
        ),
    ],
    episodes: Annotated[
        int | None, typer.Option("--episodes", "-n", min=1, help="Episodes. [default: 10]")
    ] = None,
    checkpoint: Checkpoint = None,
    environment: Annotated[
        str | None,
        typer.Option("--environment", "-e", help="A gymnasium id. [default: the run's]"),
    ] = None,
    seed: Annotated[
        int,
        typer.Option("--seed", min=0, max=LARGEST_SEED, help="Of the initial states, or samples."),
    ] = 0,
    stochastic: Annotated[
        bool, typer.Option("--stochastic", help="Sample actions instead of taking the mode.")
    ] = False,
    device: Device = None,
    video: Annotated[
        Path | None, typer.Option("--video", help="Folder to write MP4 videos to.")
    ] = None,
    prompts: Annotated[
        int | None, typer.Option("--prompts", min=0, help="Language models: prompts to sample for.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="Language models: pairs. [default: the run's held-out ones]"
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="Language models: of --dataset. [default: the recipe's evaluation_split or train]",
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option("--reward", help="Language models: MODULE:FUNCTION, FILE.py:FUNCTION, model."),
    ] = None,
    revisions: Annotated[
        int | None, typer.Option("--revisions", min=0, help="Language models: self-revisions.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Language models: keep the result for the report.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate what a run trained.

    An agent plays episodes. A language model is compared with the one that training began with, on
    held-out pairs and by its answers to their prompts.
    """
    from rlalign.report.preference_runs import is_preference_run

    if is_preference_run(run):
        from rlalign.cli.preferences import evaluate_run

        if device is not None:
            raise RlalignError(
                f"{run}: --device {device}, but a language model is evaluated on the device that "
                "its recipe names; leave --device out"
            )
        refuse_options(
            run,
            "is for agents",
            episodes=episodes,
            environment=environment,
            video=video,
            stochastic=stochastic,
        )
        asked = {"prompts": prompts, "reward": reward, "revisions": revisions}
        evaluate_run(
            run,
            checkpoint or "latest",
            dataset,
            split,
            asked,
            seed=seed,
            record=record,
            as_json=as_json,
        )
        return
    refuse_options(
        run,
        "is for language models",
        prompts=prompts,
        dataset=dataset,
        split=split,
        reward=reward,
        revisions=revisions,
        record=record,
    )
    from rlalign.cli.policies import check_spaces, load
    from rlalign.evaluate import evaluate as play
    from rlalign.evaluate import recording_environments

    agent, venue = load(run, checkpoint, environment, device)
    episodes = episodes or 10
    env_id = str(venue.environment)
    own_seed = _seed_of_episodes(seed)
    if video is not None:
        environments = recording_environments(
            env_id, video, episodes=episodes, seed=own_seed, options=venue.options
        )
    else:
        environments = venue.environments(1, seed=own_seed, record=False)
    try:
        check_spaces(agent, environments, env_id)
        result = play(agent, environments, episodes, deterministic=not stochastic)
    finally:
        environments.close()
    row = {"environment": env_id, **result.to_dict(venue.reference)}
    typer.echo(json.dumps(row) if as_json else _describe(row, result))
    if video is not None and not as_json:
        typer.echo(f"videos in {video}")


def _seed_of_episodes(seed: int) -> int:
    """A seed whose episodes are none that training with `seed` plays."""
    import numpy as np

    return int(np.random.SeedSequence([seed, _EVALUATION]).generate_state(1)[0])


def _describe(row: dict[str, Any], result: Episodes) -> str:
    import numpy as np

    score = row["normalized_score"]
    return (
        f"{row['environment']}: return {result.mean_return:.1f} "
        f"(deviation {np.std(result.returns):.1f}, {min(result.returns):.1f} to "
        f"{max(result.returns):.1f}) over {len(result.returns)} episodes of mean length "
        f"{np.mean(result.lengths):.0f}"
        + ("" if score is None else f"; normalised score {score:.1f}")
    )
