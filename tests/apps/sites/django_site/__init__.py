"""A Django project in one folder: no database, forms with CSRF, uploads that Django spools, a streamed response."""
