"""The Django site's WSGI callable."""

import os

from django.core.wsgi import get_wsgi_application

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.apps.sites.django_site.settings"
application = get_wsgi_application()
