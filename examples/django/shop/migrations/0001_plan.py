"""As manage.py makemigrations has made it."""

from django.db import migrations, models

COLUMNS = [("name", models.TextField(unique=True)), ("cents", models.IntegerField())]


class Migration(migrations.Migration):
    initial = True
    operations = [migrations.CreateModel("Plan", [("id", models.BigAutoField(primary_key=True)), *COLUMNS])]
