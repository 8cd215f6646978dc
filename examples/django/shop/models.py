"""What is sold."""

from django.db import models


class Plan(models.Model):
    """A plan, and its price in cents."""

    name = models.TextField(unique=True)
    cents = models.IntegerField()
