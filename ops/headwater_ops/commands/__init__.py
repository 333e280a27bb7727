"""One file per verb of the ``headwater`` command; see ``headwater_ops.cli``."""
