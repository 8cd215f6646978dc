"""The app's own startup tasks."""

from startup import Context, task


@task(policy="once")
def load_plans(context: Context) -> None:
    """What it writes and that it has run are one transaction."""
    context.connection.execute("INSERT INTO plans VALUES ('free', 0), ('team', 1900)")
