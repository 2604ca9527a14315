"""A Django project with a database and the admin, whose static files the server serves."""
