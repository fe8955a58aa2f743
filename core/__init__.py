"""Stages, settings, engines, files: what every room stands on. Imports nothing of ours."""
