"""The demo: a year of real flights through the whole pipeline, checked against an oracle."""
