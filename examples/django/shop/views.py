"""The pages, and where they are."""

from django.http import HttpRequest, JsonResponse
from django.urls import path

from shop.models import Plan


def plans(_: HttpRequest) -> JsonResponse:
    """Each plan's price."""
    return JsonResponse({plan.name: plan.cents for plan in Plan.objects.all()})


urlpatterns = [path("", plans)]
