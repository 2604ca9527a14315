"""Addresses of the Django site."""

from django.urls import path

from tests.apps.sites.django_site import views

urlpatterns = [
    path("", views.form, name="form"),
    path("upload", views.upload),
    path("stream", views.stream),
    path("file", views.file),
    path("old", views.old),
    path("visits", views.visits),
    path("peer", views.peer),
    path("raise", views.fail),
]
