"""The site's WSGI callable and its addresses."""

import os

from django.core.wsgi import get_wsgi_application

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.apps.sites.admin_site.settings"
application = get_wsgi_application()

from django.contrib import admin  # noqa: E402 - it wants the settings
from django.urls import path  # noqa: E402

urlpatterns = [path("admin/", admin.site.urls)]
