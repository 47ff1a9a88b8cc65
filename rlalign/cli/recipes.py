"""`rlalign recipes`: the shipped recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from rlalign.cli.arguments import Overrides

LIST_EXAMPLE = "Example: rlalign recipes | grep iql/local"
SHOW_EXAMPLE = "Example: rlalign recipes show iql/hopper-medium-v2 settings.expectile=0.9"

app = typer.Typer(
    help="List the shipped recipes, or show one.", epilog=LIST_EXAMPLE, rich_markup_mode=None
)


@app.callback(invoke_without_command=True)
def _list(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from rlalign.recipe import list_recipes

        for name in list_recipes():
            typer.echo(name)


@app.command("show", epilog=SHOW_EXAMPLE)
def show(
    name: Annotated[
        str,
        typer.Argument(help="A shipped recipe, a file, or a run directory.", metavar="NAME"),
    ],
    overrides: Overrides = None,
) -> None:
    """Print a recipe with its bases, defaults and overrides written out."""
    from rlalign.recipe import TrainerRecipe, check_recipe, dump_recipe, filled, load_any_recipe

    recipe = load_any_recipe(name, overrides or [])
    check_recipe(recipe, name, overrides or [])
    whole = recipe if isinstance(recipe, TrainerRecipe) else filled(recipe)
    typer.echo(dump_recipe(whole), nl=False)
